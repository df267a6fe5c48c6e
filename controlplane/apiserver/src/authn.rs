//! Who is asking: a verified client certificate, or a bearer token from the token file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

/// What a connection's client certificate says; found once per connection.
#[derive(Clone, Debug)]
pub(crate) enum Certificate {
    None,
    /// Presented, but not signed by the cluster's CA, expired, or not for clients.
    Refused(String),
    User(Arc<User>),
}

pub(crate) struct Authenticator {
    verifier: Arc<dyn ClientCertVerifier>,
    tokens: HashMap<String, Arc<User>>,
}

// === impl Authenticator ===

impl Authenticator {
    pub(crate) fn new(ca: CertificateDer<'static>, provider: Arc<CryptoProvider>, token_file: Option<&Path>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(ca)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        let tokens = match token_file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(anyhow::Error::from)
                .and_then(|text| parse_tokens(&text))
                .with_context(|| format!("token file {}", file.display()))?,
            None => HashMap::new(),
        };
        Ok(Self { verifier, tokens })
    }

    /// A TLS verifier that lets any certificate through the handshake (its key must be proven), so that a wrong one is
    /// answered with a Status and not with a broken connection.
    pub(crate) fn tls_verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Lenient(self.verifier.clone()))
    }

    pub(crate) fn certificate(&self, chain: Option<&[CertificateDer<'_>]>) -> Certificate {
        let Some([leaf, intermediates @ ..]) = chain else { return Certificate::None };
        match self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()) {
            Err(error) => Certificate::Refused(error.to_string()),
            Ok(_) => match subject(leaf) {
                Some(user) => Certificate::User(Arc::new(user)),
                None => Certificate::Refused("its subject has no common name".into()),
            },
        }
    }

    /// The user of a request, or `None` when nobody is proven: 401.
    pub(crate) fn authenticate(&self, certificate: &Certificate, authorization: Option<&str>) -> Option<Arc<User>> {
        if let Certificate::User(user) = certificate {
            return Some(user.clone());
        }
        let (scheme, token) = authorization?.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        self.tokens.get(token.trim()).cloned()
    }
}

fn subject(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<_> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
    (!name.is_empty()).then(|| user(name, "", &groups))
}

fn user(name: &str, uid: &str, groups: &[&str]) -> User {
    let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    groups.push("system:authenticated".into());
    User { name: name.into(), uid: uid.into(), groups }
}

/// Lines of `token,user,uid,"group1,group2"`; the groups may be absent. Empty lines and `#` comments are skipped.
fn parse_tokens(text: &str) -> Result<HashMap<String, Arc<User>>> {
    let mut tokens = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.splitn(4, ',').map(|field| field.trim().trim_matches('"'));
        let (token, name, uid) = (fields.next(), fields.next(), fields.next());
        let (Some(token), Some(name), Some(uid)) = (token, name, uid) else {
            bail!("line {}: expected token,user,uid and optionally \"group,group\"", index + 1);
        };
        if token.is_empty() || name.is_empty() {
            bail!("line {}: the token and the user must not be empty", index + 1);
        }
        let groups: Vec<_> = fields.next().unwrap_or_default().split(',').map(str::trim).filter(|g| !g.is_empty()).collect();
        if tokens.insert(token.to_owned(), Arc::new(user(name, uid, &groups))).is_some() {
            bail!("line {}: the same token appears twice", index + 1);
        }
    }
    Ok(tokens)
}

#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

// === impl Lenient ===

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Pki;

    #[test]
    fn token_files_are_read_and_faults_name_the_line() {
        let check = |text: &str, expected: std::result::Result<&[&str], &str>| match (parse_tokens(text), expected) {
            (Ok(tokens), Ok(groups)) => {
                let user = &tokens["secret"];
                assert_eq!((user.name.as_str(), user.uid.as_str()), ("alice", "1"));
                assert_eq!(user.groups, groups);
            }
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (got, _) => panic!("{text}: {got:?}"),
        };
        check("secret,alice,1,\"a,b\"", Ok(&["a", "b", "system:authenticated"]));
        check("# tokens\n\nsecret,alice,1\n", Ok(&["system:authenticated"]));
        check("secret,alice", Err("line 1: expected"));
        check("a,b,c\n,x,1", Err("line 2: the token and the user must not be empty"));
        check("a,b,c\na,d,e", Err("line 2: the same token"));
    }

    #[test]
    fn certificates_name_users_and_strangers_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Pki::open(&dir.path().join("ours")).unwrap();
        let theirs = Pki::open(&dir.path().join("theirs")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authenticator = Authenticator::new(ours.ca().unwrap(), provider, None).unwrap();
        let seen = |pki: &Pki| {
            let (chain, _) = pki.client("system:node:a", &["system:nodes", "more"]).unwrap().der().unwrap();
            authenticator.certificate(Some(&chain))
        };
        let Certificate::User(user) = seen(&ours) else { panic!("our own certificate is good") };
        assert_eq!(user.name, "system:node:a");
        assert_eq!(user.groups, ["system:nodes", "more", "system:authenticated"]);
        assert!(matches!(seen(&theirs), Certificate::Refused(_)));
        let (server, _) = ours.server(&["localhost".into()]).unwrap().der().unwrap();
        assert!(
            matches!(authenticator.certificate(Some(&server)), Certificate::Refused(_)),
            "a serving certificate is no user"
        );
        assert!(authenticator.authenticate(&Certificate::None, Some("Bearer x")).is_none());
        assert!(authenticator.authenticate(&Certificate::None, None).is_none());
    }
}
