//! How a translated flow advances with each packet, and how its source port is chosen: rules without I/O.

use crate::{
    CtDirection, CtEntry, CtFlags, CtState, Proto, SCTP_ESTABLISHED_SECONDS, SCTP_NEW_SECONDS, SNAT_PORT_MAX, SNAT_PORT_MIN,
    TCP_CLOSED_SECONDS, TCP_CLOSING_SECONDS, TCP_ESTABLISHED_SECONDS, TCP_NEW_SECONDS, UDP_NEW_SECONDS, UDP_STREAM_SECONDS,
    header::TcpFlags,
};

/// State and flags of a flow after a packet of `proto` in `direction`; `tcp` is what a segment says, or in terms of TCP what
/// an SCTP packet says (see [`crate::header::sctp_signals`]). States only go forward: a flow that is over
/// starts again as a new one (see [`restarts`]).
#[inline(always)]
pub const fn advance(
    state: CtState,
    flags: CtFlags,
    direction: CtDirection,
    proto: Proto,
    tcp: TcpFlags,
) -> (CtState, CtFlags) {
    let is_reply = direction.0 == CtDirection::REPLY.0;
    let answered = if is_reply && state.0 == CtState::NEW.0 { CtState::ESTABLISHED } else { state };
    if !matches!(proto, Proto::TCP | Proto::SCTP) {
        return (answered, flags);
    }
    if tcp.has(TcpFlags::RST) {
        return (CtState::CLOSED, flags);
    }
    if !tcp.has(TcpFlags::FIN) {
        return (answered, flags);
    }
    const BOTH: u16 = CtFlags::FIN_CLIENT | CtFlags::FIN_BACKEND;
    let flags = CtFlags(flags.0 | if is_reply { CtFlags::FIN_BACKEND } else { CtFlags::FIN_CLIENT });
    if flags.0 & BOTH == BOTH || state.0 == CtState::CLOSED.0 { (CtState::CLOSED, flags) } else { (CtState::CLOSING, flags) }
}

/// Seconds since `last_seen`. Another CPU may have written it a moment ahead of `now`.
#[inline(always)]
pub const fn idle(last_seen: u32, now: u32) -> u32 {
    let seconds = now.wrapping_sub(last_seen);
    if seconds.cast_signed() < 0 { 0 } else { seconds }
}

/// How long a flow in this state may be idle, in seconds.
#[inline(always)]
pub const fn idle_limit(proto: Proto, state: CtState) -> u32 {
    match (proto, state) {
        (Proto::TCP, CtState::NEW) => TCP_NEW_SECONDS,
        (Proto::TCP, CtState::ESTABLISHED) => TCP_ESTABLISHED_SECONDS,
        (Proto::TCP, CtState::CLOSING) => TCP_CLOSING_SECONDS,
        (Proto::TCP, _) => TCP_CLOSED_SECONDS,
        (Proto::SCTP, CtState::NEW) => SCTP_NEW_SECONDS,
        (Proto::SCTP, CtState::CLOSED) => TCP_CLOSED_SECONDS,
        (Proto::SCTP, _) => SCTP_ESTABLISHED_SECONDS,
        (_, CtState::NEW) => UDP_NEW_SECONDS,
        (_, _) => UDP_STREAM_SECONDS,
    }
}

/// Whether a packet from the client opens a new connection on the tuple of an old one, which is then forgotten: the
/// client's port came round again, nobody ever answered, or somebody else did.
#[inline(always)]
pub const fn restarts<A>(entry: &CtEntry<A>, tcp: TcpFlags, now: u32) -> bool {
    if !tcp.opens() {
        return false;
    }
    let in_vain = entry.flags.has(CtFlags::CONTENDED) || idle(entry.last_seen, now) >= TCP_NEW_SECONDS;
    entry.state.0 == CtState::CLOSED.0 || (entry.state.0 == CtState::NEW.0 && in_vain)
}

/// Whether a packet that meets a reply entry cannot be that flow's, but belongs to a connection between the same two
/// ports that has no entry: a SYN is answered by a SYN or a reset before anything else, and what is over gets no
/// SYN any more.
#[inline(always)]
pub const fn is_anothers<A>(reply: &CtEntry<A>, proto: Proto, tcp: TcpFlags) -> bool {
    match (proto, reply.state) {
        (Proto::TCP, CtState::NEW) => !reply.flags.has(CtFlags::PICKED_UP) && !tcp.has(TcpFlags::SYN | TcpFlags::RST),
        (Proto::TCP, CtState::CLOSED) => tcp.has(TcpFlags::SYN) && tcp.has(TcpFlags::ACK),
        _ => false,
    }
}

/// How many source ports are tried before a new flow is given up. A range that is half full fails once in 65,536.
pub const PORT_TRIES: u32 = 16;

/// The `attempt`-th source port to try, walking the range from a random start. The stride is odd and no divisor of
/// the range's length, so that attempts do not repeat and neighbours of a busy block are left soon.
#[inline(always)]
pub const fn source_port(random: u32, attempt: u32) -> u16 {
    const LEN: u32 = SNAT_PORT_MAX as u32 - SNAT_PORT_MIN as u32 + 1;
    const STRIDE: u32 = 269;
    let start = ((random as u64 * LEN as u64) >> 32) as u32;
    SNAT_PORT_MIN + ((start + attempt * STRIDE) % LEN) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::sctp_signals;

    const FORWARD: CtDirection = CtDirection::FORWARD;
    const REPLY: CtDirection = CtDirection::REPLY;

    fn check_tcp(state: CtState, flags: u16, direction: CtDirection, tcp: u8, expect: (CtState, u16)) {
        let (state_after, flags_after) = advance(state, CtFlags(flags), direction, Proto::TCP, TcpFlags(tcp));
        assert_eq!((state_after, flags_after.0), expect, "{state:?} {flags:#x} {direction:?} {tcp:#x}");
    }

    #[test]
    fn a_tcp_flow_is_established_by_the_first_answer() {
        check_tcp(CtState::NEW, 0, FORWARD, TcpFlags::SYN, (CtState::NEW, 0));
        check_tcp(CtState::NEW, 0, REPLY, TcpFlags::SYN | TcpFlags::ACK, (CtState::ESTABLISHED, 0));
        check_tcp(CtState::ESTABLISHED, 0, FORWARD, TcpFlags::ACK, (CtState::ESTABLISHED, 0));
    }

    #[test]
    fn a_tcp_flow_closes_by_fin_from_both_sides_or_by_reset() {
        const CLIENT: u16 = CtFlags::FIN_CLIENT;
        const BACKEND: u16 = CtFlags::FIN_BACKEND;
        check_tcp(CtState::ESTABLISHED, 0, FORWARD, TcpFlags::FIN, (CtState::CLOSING, CLIENT));
        check_tcp(CtState::ESTABLISHED, 0, REPLY, TcpFlags::FIN, (CtState::CLOSING, BACKEND));
        check_tcp(CtState::CLOSING, CLIENT, FORWARD, TcpFlags::FIN, (CtState::CLOSING, CLIENT));
        check_tcp(CtState::CLOSING, CLIENT, REPLY, TcpFlags::ACK, (CtState::CLOSING, CLIENT));
        check_tcp(CtState::CLOSING, CLIENT, REPLY, TcpFlags::FIN, (CtState::CLOSED, CLIENT | BACKEND));
        check_tcp(CtState::CLOSED, CLIENT | BACKEND, FORWARD, TcpFlags::ACK, (CtState::CLOSED, CLIENT | BACKEND));
        check_tcp(CtState::CLOSED, 0, REPLY, TcpFlags::FIN, (CtState::CLOSED, BACKEND));
        check_tcp(CtState::NEW, 0, REPLY, TcpFlags::RST | TcpFlags::ACK, (CtState::CLOSED, 0));
        check_tcp(CtState::ESTABLISHED, CtFlags::SNAT, FORWARD, TcpFlags::RST, (CtState::CLOSED, CtFlags::SNAT));
    }

    #[test]
    fn other_protocols_know_only_answered_or_not() {
        fn check(state: CtState, direction: CtDirection, expect: CtState) {
            // Whatever stands where TCP has its flags does not count.
            assert_eq!(advance(state, CtFlags(0), direction, Proto::UDP, TcpFlags(0xff)), (expect, CtFlags(0)));
        }
        check(CtState::NEW, FORWARD, CtState::NEW);
        check(CtState::NEW, REPLY, CtState::ESTABLISHED);
        check(CtState::ESTABLISHED, FORWARD, CtState::ESTABLISHED);
    }

    #[test]
    fn an_sctp_association_is_over_with_an_abort_from_either_side() {
        fn check(state: CtState, direction: CtDirection, chunk: u8, expect: CtState) {
            let (after, flags) = advance(state, CtFlags(0), direction, Proto::SCTP, sctp_signals(chunk));
            assert_eq!((after, flags), (expect, CtFlags(0)), "{state:?} {direction:?} {chunk}");
        }
        const INIT: u8 = 1;
        const ABORT: u8 = 6;
        const SHUTDOWN_COMPLETE: u8 = 14;
        check(CtState::NEW, FORWARD, INIT, CtState::NEW);
        check(CtState::NEW, REPLY, INIT + 1, CtState::ESTABLISHED);
        check(CtState::ESTABLISHED, FORWARD, 0, CtState::ESTABLISHED);
        check(CtState::ESTABLISHED, FORWARD, ABORT, CtState::CLOSED);
        check(CtState::NEW, REPLY, ABORT, CtState::CLOSED);
        check(CtState::ESTABLISHED, REPLY, SHUTDOWN_COMPLETE, CtState::CLOSED);
        check(CtState::CLOSED, FORWARD, 0, CtState::CLOSED);
        assert_eq!(idle_limit(Proto::SCTP, CtState::NEW), SCTP_NEW_SECONDS);
        assert_eq!(idle_limit(Proto::SCTP, CtState::ESTABLISHED), SCTP_ESTABLISHED_SECONDS);
        assert_eq!(idle_limit(Proto::SCTP, CtState::CLOSED), TCP_CLOSED_SECONDS);
    }

    #[test]
    fn only_a_syn_on_a_finished_or_unanswered_flow_starts_over() {
        fn check(state: CtState, idle: u32, tcp: u8, expect: bool) {
            // The clock may pass 2^32 while a flow lives.
            let entry: CtEntry = CtEntry { state, last_seen: u32::MAX - 5, ..Default::default() };
            assert_eq!(
                restarts(&entry, TcpFlags(tcp), entry.last_seen.wrapping_add(idle)),
                expect,
                "{state:?} {idle} {tcp:#x}"
            );
        }
        check(CtState::CLOSED, 0, TcpFlags::SYN, true);
        check(CtState::CLOSED, 0, TcpFlags::ACK, false);
        check(CtState::CLOSED, 0, TcpFlags::SYN | TcpFlags::ACK, false);
        check(CtState::NEW, TCP_NEW_SECONDS - 1, TcpFlags::SYN, false);
        check(CtState::NEW, TCP_NEW_SECONDS, TcpFlags::SYN, true);
        check(CtState::ESTABLISHED, 1_000_000, TcpFlags::SYN, false);
        check(CtState::CLOSING, 1_000_000, TcpFlags::SYN, false);
        let contended: CtEntry = CtEntry { flags: CtFlags(CtFlags::CONTENDED), ..Default::default() };
        assert!(restarts(&contended, TcpFlags(TcpFlags::SYN), 0));
        assert!(!restarts(&contended, TcpFlags(TcpFlags::ACK), 0));
        assert!(!restarts(&CtEntry { state: CtState::ESTABLISHED, ..contended }, TcpFlags(TcpFlags::SYN), 0));
    }

    #[test]
    fn a_clock_that_is_behind_is_no_long_time() {
        assert_eq!(idle(100, 160), 60);
        assert_eq!(idle(101, 100), 0);
        assert_eq!(idle(u32::MAX, 4), 5);
        assert_eq!(idle(4, u32::MAX), 0);
    }

    #[test]
    fn packets_that_cannot_answer_a_flow_are_anothers() {
        const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
        const RST_ACK: u8 = TcpFlags::RST | TcpFlags::ACK;
        const FIN_ACK: u8 = TcpFlags::FIN | TcpFlags::ACK;
        fn check(proto: Proto, state: CtState, flags: u16, anothers: &[u8]) {
            let reply: CtEntry = CtEntry { direction: CtDirection::REPLY, state, flags: CtFlags(flags), ..Default::default() };
            for tcp in [TcpFlags::SYN, SYN_ACK, TcpFlags::RST, RST_ACK, TcpFlags::ACK, FIN_ACK] {
                let expect = anothers.contains(&tcp);
                assert_eq!(is_anothers(&reply, proto, TcpFlags(tcp)), expect, "{proto:?} {state:?} {flags:#x} {tcp:#x}");
            }
        }
        check(Proto::TCP, CtState::NEW, 0, &[TcpFlags::ACK, FIN_ACK]);
        check(Proto::TCP, CtState::NEW, CtFlags::CONTENDED | CtFlags::SNAT, &[TcpFlags::ACK, FIN_ACK]);
        check(Proto::TCP, CtState::NEW, CtFlags::PICKED_UP, &[]);
        check(Proto::TCP, CtState::ESTABLISHED, 0, &[]);
        check(Proto::TCP, CtState::CLOSING, 0, &[]);
        check(Proto::TCP, CtState::CLOSED, 0, &[SYN_ACK]);
        for state in [CtState::NEW, CtState::ESTABLISHED, CtState::CLOSED] {
            check(Proto::UDP, state, 0, &[]);
        }
    }

    #[test]
    fn source_ports_stay_in_their_range_and_differ() {
        for random in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX - 1, u32::MAX] {
            let mut seen = [0u16; PORT_TRIES as usize];
            for attempt in 0..PORT_TRIES {
                let port = source_port(random, attempt);
                assert!((SNAT_PORT_MIN..=SNAT_PORT_MAX).contains(&port), "{random} {attempt}: {port}");
                assert!(!seen.contains(&port), "{random} {attempt}: {port} again");
                seen[attempt as usize] = port;
            }
        }
        assert_eq!(source_port(0, 0), SNAT_PORT_MIN);
        assert_eq!(source_port(u32::MAX, 0), SNAT_PORT_MAX);
    }
}
