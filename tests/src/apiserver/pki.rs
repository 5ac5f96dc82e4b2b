//! Certificates of a cluster that lives for the length of a test.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// Whether a certificate may be used today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It may.
    Now,
    /// It was valid in the year 2001.
    Expired,
}

/// A certificate and its private key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key (PKCS #8).
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one. Two of them never trust each other, whatever their names.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate().context("key of an authority")?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("certificate of an authority")?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a server on loopback.
    pub fn server(&self, validity: Validity) -> Result<Identity> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        self.issue(named("server", None), names.to_vec(), ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// A certificate for a server at one address.
    pub fn server_at(&self, address: IpAddr) -> Result<Identity> {
        let names = vec![address.to_string()];
        self.issue(named("server", None), names, ExtendedKeyUsagePurpose::ServerAuth, Validity::Now)
    }

    /// A certificate for a user in a group.
    pub fn client(&self, user: &str, group: &str, validity: Validity) -> Result<Identity> {
        let subject = named(user, Some(group));
        self.issue(subject, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    fn issue(
        &self,
        subject: DistinguishedName,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2001, 12, 31);
        }
        let certificate = params.signed_by(&key, &self.issuer).context("certificate")?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A key that signs service-account tokens, and its public half, in PEM.
pub fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn named(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}
