//! The cluster's certificate authority: made on first use in the data directory, it signs the server's and the clients'
//! certificates.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;

/// The authority, ready to sign.
pub(crate) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// A signed certificate with its key, in PEM.
pub(crate) struct Identity {
    pub cert: String,
    pub key: String,
}

// === impl Pki ===

impl Pki {
    /// Reads `<data>/pki/ca.crt` and `ca.key`, making both when the directory is not there.
    pub(crate) fn open(data: &Path) -> Result<Self> {
        let dir = data.join("pki");
        if !dir.join("ca.crt").exists() {
            make_ca(data, &dir).with_context(|| format!("making the cluster's CA in {}", dir.display()))?;
        }
        let read = |name: &str| {
            let file = dir.join(name);
            fs::read_to_string(&file).with_context(|| format!("reading {}: restore it, or remove the folder", file.display()))
        };
        let ca_pem = read("ca.crt")?;
        let key = KeyPair::from_pem(&read("ca.key")?).context("ca.key is not a private key in PEM")?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).context("ca.crt is not a CA certificate in PEM")?;
        Ok(Self { issuer, ca_pem })
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub(crate) fn ca(&self) -> Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).context("ca.crt holds no certificate")
    }

    /// A serving certificate for these DNS names and addresses.
    pub(crate) fn server(&self, sans: &[String]) -> Result<Identity> {
        let mut params = leaf("kube-apiserver", &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for san in sans {
            params.subject_alt_names.push(match san.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(san.as_str().try_into().with_context(|| format!("{san:?} is no DNS name"))?),
            });
        }
        self.sign(&params)
    }

    /// A client certificate: common name is the user, organizations are the groups.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        let mut params = leaf(user, groups)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert: cert.pem(), key: key.serialize_pem() })
    }
}

// === impl Identity ===

impl Identity {
    /// The chain and key as TLS wants them.
    pub(crate) fn der(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }
}

fn make_ca(data: &Path, dir: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "thalweg-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, CA_YEARS)?;
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;

    // Whole or not at all: the folder appears under its name with both files in it. Whoever comes second uses the first one's.
    fs::create_dir_all(data)?;
    let fresh = data.join(format!("pki.new-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o700).recursive(true).create(&fresh)?;
    write_private(&fresh.join("ca.crt"), cert.pem().as_bytes())?;
    write_private(&fresh.join("ca.key"), key.serialize_pem().as_bytes())?;
    let renamed = fs::rename(&fresh, dir);
    if renamed.is_err() {
        fs::remove_dir_all(&fresh)?;
        if !dir.join("ca.crt").exists() {
            renamed?;
        }
    }
    Ok(())
}

fn leaf(name: &str, organizations: &[&str]) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // The library keeps one value per attribute type; the same type by its number makes room for a second one.
    for (index, organization) in organizations.iter().enumerate() {
        let attribute = match index {
            0 => DnType::OrganizationName,
            1 => DnType::CustomDnType(vec![2, 5, 4, 10]),
            _ => bail!("a client certificate for {name:?} can carry two groups, not {}", organizations.len()),
        };
        params.distinguished_name.push(attribute, *organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_YEARS)?;
    Ok(params)
}

/// From yesterday (clocks differ) for so many years.
fn validity(params: &mut CertificateParams, years: i16) -> Result<()> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    params.not_before = day(today.yesterday()?);
    params.not_after = day(today.checked_add(jiff::Span::new().years(years))?);
    Ok(())
}

/// Writes a file that only its owner may read, replacing it as a whole.
pub(crate) fn write_private(file: &Path, content: &[u8]) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut open| open.write_all(content))
        .and_then(|()| fs::rename(&fresh, file));
    written.with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_authority_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path()).unwrap();
        let second = Pki::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        let mode = fs::metadata(dir.path().join("pki/ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_broken_authority_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path()).unwrap();
        fs::remove_file(dir.path().join("pki/ca.key")).unwrap();
        let error = format!("{:#}", Pki::open(dir.path()).err().unwrap());
        assert!(error.contains("pki/ca.key"), "{error}");
    }

    #[test]
    fn names_and_groups_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        assert!(pki.client("u", &["a", "b"]).is_ok());
        assert!(pki.client("u", &["a", "b", "c"]).is_err());
        assert!(pki.server(&["näme".into()]).is_err());
    }
}
