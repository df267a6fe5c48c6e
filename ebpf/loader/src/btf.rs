//! The layouts of map keys and values as BTF tells them: which fields there are, where, and how wide. By it a new version
//! reads what an older one has pinned.
//!
//! Only what our own types use is understood: integers, structs and arrays. aya's parser keeps its types to itself.

use std::{collections::BTreeMap, io};

/// How a field is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An integer in the machine's byte order, or in the packet's: it is only ever copied or widened.
    Integer,
    /// Bytes in a row.
    Bytes,
    /// An IPv4 address, in a type of that name.
    Be32,
    /// An IPv6 address, or one of IPv4 that is mapped.
    Be128,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub offset: usize,
    pub size: usize,
    pub kind: Kind,
}

/// The fields of a key or value by their path, such as `entries.0.vip`. Wrappers of a single value and padding have no part
/// in it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Layout {
    pub size: usize,
    pub fields: BTreeMap<String, Field>,
}

/// The types of one object.
#[derive(Debug)]
pub struct Types {
    types: Vec<Type>,
}

#[derive(Clone, Debug)]
enum Type {
    Integer {
        size: usize,
    },
    Struct {
        name: String,
        size: usize,
        members: Vec<Member>,
    },
    Array {
        element: u32,
        count: usize,
    },
    /// A typedef, const or the like.
    Same {
        as_type: u32,
    },
    /// Nothing that a map holds.
    Other,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    type_id: u32,
    offset: usize,
}

const MAGIC: u16 = 0xeb9f;
/// Deeper than any layout of ours; a cycle ends here.
const DEEPEST: usize = 16;

// === impl Types ===

impl Types {
    /// Reads BTF as the kernel and objects have it.
    ///
    /// # Errors
    /// It is cut short, or of another byte order or a kind that is not known.
    pub fn parse(btf: &[u8]) -> io::Result<Self> {
        let mut header = Reader { bytes: btf };
        if header.u16()? != MAGIC {
            return Err(invalid("not BTF of this machine's byte order"));
        }
        header.skip(2)?;
        let [header_len, type_off, type_len, str_off, str_len] =
            [header.u32()?, header.u32()?, header.u32()?, header.u32()?, header.u32()?].map(|word| word as usize);
        let part = |offset: usize, len: usize| {
            let start = header_len.checked_add(offset);
            start.and_then(|start| btf.get(start..start.checked_add(len)?)).ok_or_else(|| invalid("BTF is cut short"))
        };
        let strings = part(str_off, str_len)?;
        let mut reader = Reader { bytes: part(type_off, type_len)? };
        // Type 0 is void.
        let mut types = vec![Type::Other];
        while !reader.bytes.is_empty() {
            types.push(reader.read_type(strings)?);
        }
        Ok(Self { types })
    }

    /// The layout of a type.
    ///
    /// # Errors
    /// It holds something that is no integer, struct or array, or is none of these types.
    pub fn layout(&self, type_id: u32) -> io::Result<Layout> {
        let mut layout = Layout { size: self.size(type_id, 0)?, fields: BTreeMap::new() };
        self.flatten(type_id, "", 0, 0, &mut layout.fields)?;
        Ok(layout)
    }

    fn get(&self, type_id: u32, depth: usize) -> io::Result<&Type> {
        if depth > DEEPEST {
            return Err(invalid("a type within itself"));
        }
        self.types.get(type_id as usize).ok_or_else(|| invalid("no such type"))
    }

    fn size(&self, type_id: u32, depth: usize) -> io::Result<usize> {
        match self.get(type_id, depth)? {
            Type::Integer { size } | Type::Struct { size, .. } => Ok(*size),
            Type::Array { element, count } => {
                self.size(*element, depth + 1)?.checked_mul(*count).ok_or_else(|| invalid("an endless array"))
            }
            Type::Same { as_type } => self.size(*as_type, depth + 1),
            Type::Other => Err(invalid("no plain data")),
        }
    }

    fn flatten(
        &self,
        type_id: u32,
        path: &str,
        offset: usize,
        depth: usize,
        fields: &mut BTreeMap<String, Field>,
    ) -> io::Result<()> {
        let mut leaf = |size, kind| {
            fields.insert(path.to_owned(), Field { offset, size, kind });
            Ok(())
        };
        match self.get(type_id, depth)? {
            Type::Integer { size } => leaf(*size, Kind::Integer),
            Type::Same { as_type } => self.flatten(*as_type, path, offset, depth + 1, fields),
            Type::Struct { name, size, .. } if name == "Be32" => leaf(*size, Kind::Be32),
            Type::Struct { name, size, .. } if name == "Be128" => leaf(*size, Kind::Be128),
            Type::Struct { members, .. } => members
                .iter()
                .filter(|member| !member.name.starts_with("pad"))
                // A type that wraps one value is that value, whether it was wrapped before or not.
                .map(|member| (member, if member.name == "__0" { "" } else { &member.name }))
                .try_for_each(|(member, name)| {
                    self.flatten(member.type_id, &join(path, name), offset + member.offset, depth + 1, fields)
                }),
            Type::Array { element, count } => match self.get(*element, depth)? {
                Type::Integer { size } => leaf(size * count, Kind::Bytes),
                _ => {
                    let each = self.size(*element, depth + 1)?;
                    (0..*count).try_for_each(|index| {
                        self.flatten(*element, &join(path, &index.to_string()), offset + index * each, depth + 1, fields)
                    })
                }
            },
            Type::Other => Err(invalid("no plain data")),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    match (path, name) {
        (path, "") => path.to_owned(),
        ("", name) => name.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Numbers one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
}

// === impl Reader ===

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk().ok_or_else(|| invalid("BTF is cut short"))?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn skip(&mut self, count: usize) -> io::Result<()> {
        self.bytes = self.bytes.get(count..).ok_or_else(|| invalid("BTF is cut short"))?;
        Ok(())
    }

    /// One type; the kinds are those of `BTF_KIND_*`.
    fn read_type(&mut self, strings: &[u8]) -> io::Result<Type> {
        let name = self.u32()?;
        let info = self.u32()?;
        let size_or_type = self.u32()?;
        let count = (info & 0xffff) as usize;
        // In structs with bit fields, the offset shares its word with a width.
        let has_widths = info >> 31 == 1;
        match (info >> 24) & 0x1f {
            // An integer, and its encoding.
            1 => self.skip(4).map(|()| Type::Integer { size: size_or_type as usize }),
            3 => {
                let (element, _index, count) = (self.u32()?, self.u32()?, self.u32()?);
                Ok(Type::Array { element, count: count as usize })
            }
            4 => {
                let mut members = Vec::with_capacity(count);
                for _ in 0..count {
                    let (name, type_id, bits) = (self.u32()?, self.u32()?, self.u32()?);
                    let bits = if has_widths { bits & 0x00ff_ffff } else { bits };
                    members.push(Member { name: string(strings, name)?, type_id, offset: bits as usize / 8 });
                }
                Ok(Type::Struct { name: string(strings, name)?, size: size_or_type as usize, members })
            }
            // A typedef, volatile, const, restrict or type tag.
            8..=11 | 18 => Ok(Type::Same { as_type: size_or_type }),
            // An enumeration is a number, whichever its variants are.
            6 => self.skip(count * 8).map(|()| Type::Integer { size: size_or_type as usize }),
            19 => self.skip(count * 12).map(|()| Type::Integer { size: size_or_type as usize }),
            // A union, or sections of data.
            5 | 15 => self.skip(count * 12).map(|()| Type::Other),
            // A prototype's parameters.
            13 => self.skip(count * 8).map(|()| Type::Other),
            // A variable or a tag.
            14 | 17 => self.skip(4).map(|()| Type::Other),
            // A pointer, a forward, a function, a float.
            2 | 7 | 12 | 16 => Ok(Type::Other),
            _ => Err(invalid("a kind of BTF that is not known")),
        }
    }
}

fn string(strings: &[u8], offset: u32) -> io::Result<String> {
    let text = strings.get(offset as usize..).ok_or_else(|| invalid("a name outside of BTF"))?;
    let len = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    Ok(String::from_utf8_lossy(&text[..len]).into_owned())
}

#[cfg(test)]
pub mod tests;
