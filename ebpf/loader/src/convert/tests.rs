//! Conversions between layouts.

use super::{Converter, Role};
use crate::btf::{Kind, tests::layout_of};

fn convert(converter: &Converter, from: &[u8]) -> Vec<u8> {
    let mut to = Vec::new();
    converter.convert(from, &mut to);
    to
}

#[test]
fn fields_are_found_by_name_and_addresses_become_wide() {
    let old = layout_of(
        12,
        &[
            ("addr", 0, 4, Kind::Be32),
            ("port", 4, 2, Kind::Integer),
            ("gone", 6, 2, Kind::Integer),
            ("id", 8, 4, Kind::Integer),
        ],
    );
    let new = layout_of(
        28,
        &[
            ("id", 0, 8, Kind::Integer),
            ("addr", 8, 16, Kind::Be128),
            ("port", 24, 2, Kind::Integer),
            ("added", 26, 2, Kind::Integer),
        ],
    );
    let converter = Converter::new(&old, &new, Role::Value).expect("possible");
    let from = [10, 96, 0, 1, 0x1f, 0x90, 9, 9, 7, 0, 0, 0];
    let mut expected = vec![7, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 1]);
    expected.extend([0x1f, 0x90, 0, 0]);
    assert_eq!(convert(&converter, &from), expected);
    assert_eq!(convert(&converter, &[0; 12]), [0; 28], "nothing stays nothing");

    let back = Converter::new(
        &layout_of(16, &[("addr", 0, 16, Kind::Be128)]),
        &layout_of(4, &[("addr", 0, 4, Kind::Be32)]),
        Role::Key,
    );
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 96, 0, 1]);
    assert_eq!(convert(&back.expect("possible"), &mapped), [10, 96, 0, 1]);
}

#[test]
fn nothing_may_lose_what_it_says() {
    let word = |name| layout_of(4, &[(name, 0, 4, Kind::Integer)]);
    let half = layout_of(2, &[("id", 0, 2, Kind::Integer)]);
    assert_eq!(Converter::new(&word("id"), &half, Role::Value), None, "a narrower number");
    assert_eq!(Converter::new(&word("id"), &word("other"), Role::Value), None, "nothing in common");
    let both = layout_of(8, &[("id", 0, 4, Kind::Integer), ("more", 4, 4, Kind::Integer)]);
    assert!(Converter::new(&both, &word("id"), Role::Value).is_some(), "a value may have had more");
    assert_eq!(Converter::new(&both, &word("id"), Role::Key), None, "a key may not");
    assert!(Converter::new(&word("id"), &both, Role::Key).is_some(), "it may get more");
    let bytes = |size| layout_of(size, &[("name", 0, size, Kind::Bytes)]);
    assert_eq!(Converter::new(&bytes(8), &bytes(16), Role::Value), None, "bytes of another length");
}
