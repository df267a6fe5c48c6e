//! Every behaviour of a service proxy, by real packets: two nodes with three serving and two asking pods, and a client
//! outside; by the socket load balancer, by tc alone, and by iptables; over IPv4 and over IPv6.
//!
//! Each behaviour in each of these is a test of its own, so that a report names what broke. They share one lab for each
//! proxy mode, since its start costs seconds: so they run one after another, and every behaviour brings services of its own.
//! The numbers in comments are of complaints about other proxies, which must not happen here.

mod balancing;
mod external;
mod lab;
mod manifest;
mod policies;
mod refusal;
mod restart;
mod sockets;
mod translation;

use std::sync::{Arc, Mutex, PoisonError};

use lab::{Ctx, Hook, Shared};
use libtest_mimic::{Arguments, Failed, Trial};
use thalweg_cluster::Family;

/// What holds for services.
struct Behaviour {
    name: &'static str,
    /// Where it can be seen.
    hooks: &'static [Hook],
    families: &'static [Family],
    run: fn(&mut Ctx<'_>) -> anyhow::Result<()>,
}

const EVERYWHERE: &[Hook] = &[Hook::Socket, Hook::Tc, Hook::Iptables];
const EBPF: &[Hook] = &[Hook::Socket, Hook::Tc];
const SOCKET: &[Hook] = &[Hook::Socket];
/// Where processes of the node itself are served.
const BY_NODE: &[Hook] = &[Hook::Socket, Hook::Iptables];
const BOTH: &[Family] = &[Family::V4, Family::V6];
const V4: &[Family] = &[Family::V4];

/// `behaviours![(HOOKS, FAMILIES) module::function, …]`: the function's name is the behaviour's.
macro_rules! behaviours {
    ($(($hooks:expr, $families:expr) $module:ident::$name:ident,)*) => {
        &[$(Behaviour { name: stringify!($name), hooks: $hooks, families: $families, run: $module::$name },)*]
    };
}

const BEHAVIOURS: &[Behaviour] = behaviours![
    (EVERYWHERE, BOTH) balancing::a_virtual_ip_is_served_by_all_its_endpoints_on_every_node,
    (EVERYWHERE, BOTH) balancing::udp_is_served_like_tcp,
    (EVERYWHERE, BOTH) balancing::one_port_number_is_two_ports_for_tcp_and_udp,
    (EVERYWHERE, BOTH) balancing::a_named_port_may_differ_from_slice_to_slice,
    (EVERYWHERE, BOTH) balancing::slices_are_merged_and_who_is_not_ready_is_left_out,
    (EVERYWHERE, V4) balancing::a_service_of_both_families_is_served_in_both,
    (EVERYWHERE, BOTH) balancing::one_backend_behind_two_services_serves_both,
    (EVERYWHERE, BOTH) balancing::a_pod_reaches_itself_through_its_own_service,
    (EVERYWHERE, BOTH) balancing::affinity_keeps_a_client_on_one_backend_over_all_addresses,
    (EVERYWHERE, BOTH) balancing::affinity_is_switched_on_and_off_at_once,
    (EVERYWHERE, BOTH) balancing::affinity_ends_with_its_endpoint,
    (EVERYWHERE, BOTH) balancing::affinity_ends_after_its_time,
    (SOCKET, BOTH) balancing::affinity_is_one_for_sockets_and_packets,
    (EVERYWHERE, BOTH) balancing::hints_keep_traffic_in_the_zone,
    (EVERYWHERE, BOTH) balancing::hints_keep_traffic_on_the_node,
    (EVERYWHERE, BOTH) balancing::services_of_others_are_left_alone,
    (EVERYWHERE, BOTH) balancing::a_headless_service_is_left_alone,
    (EVERYWHERE, BOTH) policies::terminating_endpoints_serve_when_nobody_else_does,
    (EVERYWHERE, BOTH) policies::a_nodes_terminating_endpoints_serve_while_others_are_ready,
    (EVERYWHERE, BOTH) policies::internal_policy_local_stays_on_the_node,
    (EVERYWHERE, BOTH) policies::internal_policy_local_drops_where_nobody_is,
    (EVERYWHERE, BOTH) policies::external_policy_local_keeps_the_clients_address,
    (EVERYWHERE, BOTH) policies::external_policy_local_holds_for_all_external_addresses,
    (EVERYWHERE, BOTH) policies::external_policy_local_is_a_short_cut_from_inside,
    (EVERYWHERE, BOTH) policies::source_ranges_hold_outside_and_inside,
    (EVERYWHERE, BOTH) refusal::a_service_without_endpoints_refuses_at_once,
    (EVERYWHERE, BOTH) refusal::a_port_that_a_virtual_ip_does_not_have_is_refused,
    (EVERYWHERE, BOTH) refusal::an_address_of_no_service_is_dropped_in_the_service_range,
    (EVERYWHERE, BOTH) refusal::a_service_that_goes_is_gone_and_may_come_back,
    (EVERYWHERE, BOTH) external::a_node_port_leads_to_pods_of_any_node,
    (EVERYWHERE, BOTH) external::a_node_port_serves_udp,
    (EVERYWHERE, BOTH) external::a_node_port_follows_the_nodes_addresses,
    (EVERYWHERE, BOTH) external::load_balancer_and_external_addresses_are_served,
    (EVERYWHERE, BOTH) external::a_load_balancer_in_proxy_mode_is_not_intercepted,
    (BY_NODE, V4) external::a_node_port_is_served_on_localhost,
    (EVERYWHERE, BOTH) external::a_host_port_leads_to_its_pod,
    (EVERYWHERE, BOTH) external::host_ports_of_one_number_differ_by_address,
    (EVERYWHERE, BOTH) external::health_checks_answer_for_local_endpoints,
    (EVERYWHERE, BOTH) translation::a_flow_of_datagrams_moves_when_its_backend_goes,
    (EVERYWHERE, BOTH) translation::a_flow_of_datagrams_moves_when_its_backend_is_anothers_only,
    (EVERYWHERE, BOTH) translation::datagrams_find_a_service_that_had_nobody,
    (EVERYWHERE, BOTH) translation::a_stream_of_datagrams_finds_a_service_that_is_made_anew,
    (EVERYWHERE, BOTH) translation::answers_to_a_pod_behind_its_nodes_address_are_not_balanced,
    (EVERYWHERE, BOTH) translation::long_datagrams_arrive_in_pieces,
    (EVERYWHERE, BOTH) translation::connections_learn_what_their_way_takes,
    (EVERYWHERE, BOTH) translation::a_connection_keeps_its_terminating_backend,
    (EVERYWHERE, BOTH) translation::a_connection_to_an_endpoint_that_is_gone_is_reset,
    (EVERYWHERE, BOTH) translation::a_closed_port_behind_a_service_is_refused,
    (SOCKET, BOTH) sockets::a_socket_is_told_the_address_it_dialled,
    (SOCKET, BOTH) sockets::a_pod_that_opts_out_is_served_by_packets,
    (SOCKET, BOTH) sockets::a_node_port_cannot_be_taken_by_a_process,
    (EBPF, BOTH) restart::a_killed_agent_loses_no_connection,
    (EVERYWHERE, BOTH) restart::an_agent_that_is_restarted_keeps_services,
];

fn main() {
    let mut arguments = Arguments::from_args();
    // One lab at a time, and what one behaviour measures another must not disturb.
    arguments.test_threads = Some(1);
    let shared: Arc<Mutex<Shared>> = Arc::default();
    let mut trials = Vec::new();
    for hook in EVERYWHERE {
        for family in BOTH {
            for behaviour in BEHAVIOURS {
                if !behaviour.hooks.contains(hook) || !behaviour.families.contains(family) {
                    continue;
                }
                let name =
                    format!("{}::{}::{}", hook.name(), if *family == Family::V4 { "ipv4" } else { "ipv6" }, behaviour.name);
                let (shared, run) = (Arc::clone(&shared), behaviour.run);
                let trial = Trial::test(name, move || {
                    let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    shared.run(*hook, *family, run).map_err(|error| Failed::from(format!("{error:#}")))
                });
                // Needs root: run by `cargo xtask test`.
                trials.push(trial.with_ignored_flag(true));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let removed = shared.lock().unwrap_or_else(PoisonError::into_inner).remove();
    if let Err(error) = removed {
        eprintln!("the lab stays behind: {error:#}");
        std::process::exit(101);
    }
    conclusion.exit();
}
