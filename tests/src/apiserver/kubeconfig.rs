//! Kubeconfig files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::pki::Identity;

/// Who a client says it is.
#[derive(Clone, Debug)]
pub enum Credential<'a> {
    /// A bearer token, within the file.
    Token(&'a str),
    /// A file with a bearer token, which may be replaced at any time.
    TokenFile(&'a Path),
    /// A client certificate, in files.
    CertificateFiles {
        /// The certificate.
        certificate: &'a Path,
        /// Its key.
        key: &'a Path,
    },
    /// Nobody.
    Anonymous,
}

/// A kubeconfig as JSON, which is YAML too.
pub fn kubeconfig(server: &str, authority: Option<&Path>, credential: &Credential<'_>) -> Value {
    let mut cluster = json!({"server": server});
    if let Some(path) = authority {
        cluster["certificate-authority"] = json!(path);
    }
    let user = match credential {
        Credential::Token(token) => json!({"token": token}),
        Credential::TokenFile(path) => json!({"tokenFile": path}),
        Credential::CertificateFiles { certificate, key } => {
            json!({"client-certificate": certificate, "client-key": key})
        }
        Credential::Anonymous => json!({}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    })
}

/// Writes a file in one step: a reader sees the old contents or the new ones.
pub fn replace(path: &Path, contents: &str) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, contents).with_context(|| next.display().to_string())?;
    fs::rename(&next, path).with_context(|| path.display().to_string())
}

/// Writes certificate and key beside each other: `NAME.crt` and `NAME.key`.
pub fn write_identity(dir: &Path, name: &str, identity: &Identity) -> Result<()> {
    fs::write(dir.join(format!("{name}.crt")), &identity.certificate).context("certificate")?;
    fs::write(dir.join(format!("{name}.key")), &identity.key).context("key")
}
