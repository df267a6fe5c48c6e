//! What the client wants to read, from its `Accept` header.

use crate::status::{ApiError, Result};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Object,
    /// meta.k8s.io Table, in this version.
    Table(&'static str),
    /// meta.k8s.io PartialObjectMetadata, or its list, in this version.
    Metadata(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub view: View,
    pub yaml: bool,
}

// === impl Accept ===

impl Accept {
    /// The first alternative that the server can give; JSON when there is no header.
    pub(crate) fn parse(header: Option<&str>) -> Result<Self> {
        let header = header.unwrap_or_default();
        if header.trim().is_empty() {
            return Ok(Self { view: View::Object, yaml: false });
        }
        header.split(',').find_map(alternative).ok_or_else(ApiError::not_acceptable)
    }
}

fn alternative(text: &str) -> Option<Accept> {
    let mut parts = text.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "application/*" | "*/*" => false,
        "application/yaml" | "application/x-yaml" => true,
        _ => return None,
    };
    let (mut target, mut version, mut group, mut stream) = ("", "", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => target = value,
            Some(("v", value)) => version = value,
            Some(("g", value)) => group = value,
            Some(("stream", value)) => stream = value,
            _ => {}
        }
    }
    if !matches!(stream, "" | "watch") {
        return None;
    }
    let version = match version {
        "v1" => "meta.k8s.io/v1",
        "v1beta1" => "meta.k8s.io/v1beta1",
        _ => "",
    };
    let view = match (target, group, version) {
        ("", _, _) => View::Object,
        (_, "meta.k8s.io", "") => return None,
        ("Table", "meta.k8s.io", version) => View::Table(version),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", version) => View::Metadata(version),
        _ => return None,
    };
    Some(Accept { view, yaml })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_possible_alternative_is_taken() {
        let check = |header: &str, view: View, yaml: bool| {
            assert_eq!(Accept::parse(Some(header)).unwrap(), Accept { view, yaml }, "{header}");
        };
        check("", View::Object, false);
        check("application/json", View::Object, false);
        check("application/vnd.kubernetes.protobuf,application/json", View::Object, false);
        check("application/vnd.kubernetes.protobuf, */*", View::Object, false);
        check("application/yaml", View::Object, true);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            View::Table("meta.k8s.io/v1"),
            false,
        );
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", View::Metadata("meta.k8s.io/v1"), false);
        check("application/json;as=Table;v=v9;g=meta.k8s.io, application/json;stream=watch", View::Object, false);
        for header in ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Pie;g=meta.k8s.io;v=v1"] {
            assert_eq!(Accept::parse(Some(header)).unwrap_err().code(), 406, "{header}");
        }
    }
}
