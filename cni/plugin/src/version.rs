//! The versions of the specification that are spoken, and what each of them has.

use std::fmt;

use crate::error::{CniError, code};

/// A version of the specification; ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SpecVersion {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

// === impl SpecVersion ===

impl SpecVersion {
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    pub const LATEST: Self = Self::V1_1_0;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of a configuration. A configuration without one is of 0.1.0 by the specification, which is not spoken.
    ///
    /// # Errors
    /// Code 1 with the versions spoken.
    pub fn parse(text: &str) -> Result<Self, CniError> {
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let spoken = Self::ALL.map(Self::as_str).join(", ");
            let text = if text.is_empty() { "0.1.0 (none was given)" } else { text };
            CniError::new(code::INCOMPATIBLE_VERSION, format!("CNI version {text} is not supported"))
                .details(format_args!("set cniVersion to one of {spoken}"))
        })
    }

    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for version in SpecVersion::ALL {
            assert_eq!(SpecVersion::parse(version.as_str()), Ok(version));
        }
        for text in ["", "0.1.0", "0.2.0", "0.3.0", "1.2.0", "2", "1.0"] {
            let error = SpecVersion::parse(text).unwrap_err();
            assert_eq!(error.code, code::INCOMPATIBLE_VERSION, "{text}");
            assert!(error.details.contains("1.1.0"), "{error}");
        }
        assert!(!SpecVersion::V0_3_1.has_check() && SpecVersion::V0_4_0.has_check());
        assert!(!SpecVersion::V1_0_0.has_gc_and_status() && SpecVersion::V1_1_0.has_gc_and_status());
    }
}
