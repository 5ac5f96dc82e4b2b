//! How the API server is reached and who we are to it.

use std::{env, path::PathBuf, sync::Arc};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::source::SourceError;

/// Where the configuration of the client comes from.
///
/// By default the first of: `KUBECONFIG`; the service account of the pod; `~/.kube/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig file, instead of the default.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, instead of its current one. Rules out the service account.
    pub context: Option<String>,
}

impl Access {
    /// Whether there is anything to find: without a cluster in sight, manifests are the better source.
    pub fn is_configured(&self) -> bool {
        self.kubeconfig.is_some()
            || self.context.is_some()
            || env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty())
            || in_pod()
            || home_kubeconfig().is_some_and(|path| path.is_file())
    }

    /// The configuration, and where it comes from.
    async fn load(&self) -> Result<(Config, String), SourceError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let (kubeconfig, place) = if let Some(path) = &self.kubeconfig {
            (Kubeconfig::read_from(path), path.display().to_string())
        } else if let Some(found) = Kubeconfig::from_env().transpose() {
            (found, "KUBECONFIG".to_owned())
        } else if in_pod() && self.context.is_none() {
            let config = Config::incluster().map_err(SourceError::ServiceAccount)?;
            return Ok((config, "the service account of this pod".to_owned()));
        } else if let Some(path) = home_kubeconfig().filter(|path| path.is_file()) {
            (Kubeconfig::read_from(&path), path.display().to_string())
        } else {
            return Err(SourceError::NoCluster);
        };
        let error = |source: KubeconfigError| SourceError::Kubeconfig {
            place: place.clone(),
            source: Box::new(source),
        };
        let config = Config::from_custom_kubeconfig(kubeconfig.map_err(error)?, &options).await;
        Ok((config.map_err(error)?, place))
    }
}

fn in_pod() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

fn home_kubeconfig() -> Option<PathBuf> {
    Some(env::home_dir()?.join(".kube").join("config"))
}

/// A client, and how to make another one.
#[derive(Clone)]
pub(super) struct Connection {
    client: Client,
    server: Arc<str>,
    place: Arc<str>,
    /// `None` where the client was given.
    access: Option<Access>,
}

impl Connection {
    pub(super) async fn new(access: Access) -> Result<Self, SourceError> {
        let (config, place) = access.load().await?;
        let server = config.cluster_url.to_string().trim_end_matches('/').into();
        let client = client(config, &place)?;
        Ok(Self { client, server, place: place.into(), access: Some(access) })
    }

    #[cfg(test)]
    pub(super) fn with_client(client: Client) -> Self {
        Self { client, server: "http://test".into(), place: "the test".into(), access: None }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The server's address, for people.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Where the client's configuration comes from, for people.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Reads the configuration again: tokens in files are followed by the client itself, certificates
    /// and tokens within a kubeconfig are not, nor is the server. What cannot be read leaves things as they are.
    pub(super) async fn refresh(&mut self) -> Server {
        let Some(access) = &self.access else { return Server::Same };
        match Self::new(access.clone()).await {
            Ok(fresh) => {
                let server = if fresh.server == self.server { Server::Same } else { Server::Other };
                *self = fresh;
                server
            }
            Err(error) => {
                log::debug!("cannot read the client configuration again: {error}");
                Server::Same
            }
        }
    }
}

/// Whether a configuration that was read again names the server that it named before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Same,
    Other,
}

fn client(mut config: Config, place: &str) -> Result<Client, SourceError> {
    // Its retries last for minutes and say nothing; ours do not hide.
    config.default_retry = false;
    Client::try_from(config)
        .map_err(|source| SourceError::Client { place: place.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_client_for_https_can_be_built() {
        let config = Config::new("https://192.0.2.1:6443".parse().unwrap());
        assert!(client(config, "a test").is_ok());
    }

    #[tokio::test]
    async fn a_kubeconfig_is_read_with_its_context() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: one\n\
                    clusters:\n- name: a\n  cluster: {server: 'https://a:6443'}\n- name: b\n  cluster: {server: 'https://b:6443'}\n\
                    users:\n- name: u\n  user: {token: t}\n\
                    contexts:\n- name: one\n  context: {cluster: a, user: u}\n- name: two\n  context: {cluster: b, user: u}\n";
        fs::write(&path, text).unwrap();
        let access = |context: Option<&str>| Access {
            kubeconfig: Some(path.clone()),
            context: context.map(Into::into),
        };
        assert_eq!(Connection::new(access(None)).await.unwrap().server(), "https://a:6443");
        assert_eq!(Connection::new(access(Some("two"))).await.unwrap().server(), "https://b:6443");
        let error = Connection::new(access(Some("three"))).await.err().unwrap().to_string();
        assert!(error.contains("three") && error.contains(&path.display().to_string()), "{error}");
        fs::write(&path, "users:\n- name: u\n  user: {token: hunter2}\n }").unwrap();
        let error = Connection::new(access(None)).await.err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()) && !error.contains("hunter2"), "{error}");
        fs::remove_file(&path).unwrap();
        let error = Connection::new(access(None)).await.err().unwrap().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
