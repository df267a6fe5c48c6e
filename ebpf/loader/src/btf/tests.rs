//! Layouts from BTF that is written by hand.

use super::{Field, Kind, Layout, Types};

/// Writes BTF. Types are numbered from 1 in the order of their making.
pub struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

// === impl Writer ===

impl Writer {
    pub fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], count: 0 }
    }

    fn name(&mut self, name: &str) -> u32 {
        let at = u32::try_from(self.strings.len()).expect("short strings");
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        words.iter().for_each(|word| self.types.extend_from_slice(&word.to_ne_bytes()));
    }

    pub fn integer(&mut self, name: &str, size: u32) -> u32 {
        let name = self.name(name);
        self.words(&[name, 1 << 24, size, size * 8]);
        self.count += 1;
        self.count
    }

    pub fn array(&mut self, element: u32, index: u32, count: u32) -> u32 {
        self.words(&[0, 3 << 24, 0, element, index, count]);
        self.count += 1;
        self.count
    }

    pub fn typedef(&mut self, name: &str, of: u32) -> u32 {
        let name = self.name(name);
        self.words(&[name, 8 << 24, of]);
        self.count += 1;
        self.count
    }

    /// Members as (name, type, offset in bytes).
    pub fn record(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let name = self.name(name);
        self.words(&[name, 4 << 24 | u32::try_from(members.len()).expect("few members"), size]);
        for (member, type_id, offset) in members {
            let member = self.name(member);
            self.words(&[member, *type_id, offset * 8]);
        }
        self.count += 1;
        self.count
    }

    pub fn finish(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut btf = 0xeb9f_u16.to_ne_bytes().to_vec();
        btf.extend([1, 0]);
        [24, 0, types, types, strings].iter().for_each(|word: &u32| btf.extend_from_slice(&word.to_ne_bytes()));
        btf.extend(self.types);
        btf.extend(self.strings);
        btf
    }
}

pub fn layout_of(size: usize, fields: &[(&str, usize, usize, Kind)]) -> Layout {
    let field = |(path, offset, size, kind): &(&str, usize, usize, Kind)| {
        ((*path).to_owned(), Field { offset: *offset, size: *size, kind: *kind })
    };
    Layout { size, fields: fields.iter().map(field).collect() }
}

#[test]
fn structs_arrays_and_wrappers_become_flat_fields() {
    let mut btf = Writer::new();
    let (byte, half, word) = (btf.integer("u8", 1), btf.integer("u16", 2), btf.integer("u32", 4));
    let be32 = btf.record("Be32", 4, &[("__0", word, 0)]);
    let proto = btf.record("Proto", 1, &[("__0", byte, 0)]);
    let padding = btf.array(byte, word, 3);
    let name = btf.array(byte, word, 8);
    let half = btf.typedef("port_t", half);
    let inner = btf.record("Inner", 8, &[("vip", be32, 0), ("port", half, 4), ("proto", proto, 6)]);
    let inners = btf.array(inner, word, 2);
    let outer = btf.record("Outer", 32, &[("pad", padding, 0), ("count", word, 4), ("entries", inners, 8), ("name", name, 24)]);
    let types = Types::parse(&btf.finish()).expect("BTF");
    let expected = [
        ("count", 4, 4, Kind::Integer),
        ("entries.0.vip", 8, 4, Kind::Be32),
        ("entries.0.port", 12, 2, Kind::Integer),
        ("entries.0.proto", 14, 1, Kind::Integer),
        ("entries.1.vip", 16, 4, Kind::Be32),
        ("entries.1.port", 20, 2, Kind::Integer),
        ("entries.1.proto", 22, 1, Kind::Integer),
        ("name", 24, 8, Kind::Bytes),
    ];
    assert_eq!(types.layout(outer).expect("a layout"), layout_of(32, &expected));
    assert_eq!(types.layout(word).expect("a layout"), layout_of(4, &[("", 0, 4, Kind::Integer)]), "a number is a field");
}

#[test]
fn what_is_no_btf_is_an_error() {
    assert!(Types::parse(&[]).is_err());
    assert!(Types::parse(&[0x9f; 64]).is_err());
    let mut btf = Writer::new();
    let word = btf.integer("u32", 4);
    let record = btf.record("Record", 4, &[("value", word, 0)]);
    let bytes = btf.finish();
    for len in 0..bytes.len() {
        // Cut anywhere: an error, or types without it; never a panic.
        if let Ok(types) = Types::parse(&bytes[..len]) {
            let _ = types.layout(record);
        }
    }
    let types = Types::parse(&bytes).expect("whole");
    assert!(types.layout(record + 1).is_err(), "no such type");
    assert!(types.layout(0).is_err(), "void");
}

#[test]
fn a_type_within_itself_is_an_error() {
    let mut btf = Writer::new();
    let cycle = btf.typedef("t", 1);
    assert!(Types::parse(&btf.finish()).expect("BTF").layout(cycle).is_err());
}

/// The layouts of this build's own object are those of its types.
#[test]
#[ignore = "needs the kernel programs: run by cargo xtask test"]
fn the_embedded_object_tells_its_layouts() {
    use thalweg_abi::{Be128, CtEntry};
    let object = aya_obj::Object::parse(crate::object::OBJECT).expect("an object");
    let types = Types::parse(&object.btf.expect("with BTF").to_bytes()).expect("BTF");
    let Some(aya_obj::Map::Btf(map)) = object.maps.get("CONNTRACK6") else { panic!("CONNTRACK6 is a map of BTF") };
    let layout = types.layout(map.def.btf_value_type_id).expect("a layout");
    assert_eq!(layout.size, size_of::<CtEntry<Be128>>());
    let flags = std::mem::offset_of!(CtEntry<Be128>, flags);
    assert_eq!(layout.fields["flags"], Field { offset: flags, size: 2, kind: Kind::Integer });
    assert_eq!(layout.fields["to.src"].kind, Kind::Be128);
}
