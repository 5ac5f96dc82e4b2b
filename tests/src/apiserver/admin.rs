//! Writes objects the way anybody does, by HTTP: the same to a fake and to a real API server.

use std::{fs::File, os::fd::AsFd as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hyper::http::Request;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client with every right, whose connections are made in the server's network namespace.
pub struct Admin {
    /// Its one worker thread is in that namespace.
    runtime: Runtime,
    client: Client,
}

/// An answer other than success.
#[derive(Debug, thiserror::Error)]
#[error("HTTP {code} {reason}: {message}")]
pub struct Refused {
    /// HTTP status.
    pub code: u16,
    /// `AlreadyExists` and the like.
    pub reason: String,
    /// The server's words.
    pub message: String,
}

impl Admin {
    /// From a kubeconfig; `netns` is where its server listens.
    pub fn new(kubeconfig: &Value, netns: Option<&File>) -> Result<Self> {
        let netns = netns.map(File::try_clone).transpose()?.map(Arc::new);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(move || {
                if let Some(netns) = &netns {
                    // A client in the wrong place reaches nobody, and the test fails.
                    _ = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
                }
            })
            .build()?;
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone())?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            config.default_retry = false;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { runtime, client })
    }

    /// One request; a body is JSON.
    ///
    /// # Errors
    ///
    /// A [`Refused`] where the server answered, else why it did not.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = Request::builder().method(method).uri(path).header("content-type", kind).body(body)?;
        let client = self.client.clone();
        let answer =
            self.runtime.spawn(async move { timeout(PATIENCE, client.request::<Value>(request)).await });
        let answer = self.runtime.block_on(answer).context("client")?;
        match answer.with_context(|| format!("no answer to {method} {path}"))? {
            Ok(value) => Ok(value),
            Err(kube::Error::Api(status)) => Err(Refused {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            }
            .into()),
            Err(error) => Err(error).with_context(|| format!("{method} {path}")),
        }
    }

    /// GET as text.
    pub fn text(&self, path: &str) -> Result<String> {
        let request = Request::get(path).body(Vec::new())?;
        let client = self.client.clone();
        let answer = self.runtime.spawn(async move { timeout(PATIENCE, client.request_text(request)).await });
        Ok(self.runtime.block_on(answer).context("client")???)
    }

    /// Creates an object.
    pub fn create(&self, object: &Value) -> Result<Value> {
        self.request("POST", &collection(object)?, Some(object))
    }

    /// Creates many, several at a time.
    pub fn create_all(&self, objects: Vec<Value>) -> Result<()> {
        let client = &self.client;
        let (mut tasks, mut objects) = (Vec::new(), objects.into_iter().peekable());
        while objects.peek().is_some() {
            for object in objects.by_ref().take(32) {
                let request = Request::post(collection(&object)?)
                    .header("content-type", "application/json")
                    .body(object.to_string().into_bytes())?;
                let client = client.clone();
                tasks.push(self.runtime.spawn(async move { client.request::<Value>(request).await }));
            }
            for task in tasks.drain(..) {
                self.runtime.block_on(task)??;
            }
        }
        Ok(())
    }

    /// Replaces an object, whatever version it has.
    pub fn replace(&self, object: &Value) -> Result<Value> {
        self.request("PUT", &path(object)?, Some(object))
    }

    /// Creates or replaces.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        match self.create(object) {
            Err(error) if code(&error) == Some(409) => self.replace(object),
            other => other,
        }
    }

    /// Creates every object of a YAML file as it is.
    pub fn create_yaml(&self, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for object in documents(&text)? {
            self.create(&object).with_context(|| format!("{object}"))?;
        }
        Ok(())
    }

    /// Merges into an object.
    pub fn patch(&self, object: &Value, patch: &Value) -> Result<Value> {
        self.request("PATCH", &path(object)?, Some(patch))
    }

    /// Deletes an object.
    pub fn delete(&self, object: &Value) -> Result<Value> {
        self.request("DELETE", &path(object)?, None)
    }

    /// A token of a service account, by the API that kubelets use.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600},
        });
        let answer = self.request("POST", &path, Some(&request))?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    }

    /// Whether the server says that it is ready; if not, the error is what it says instead.
    pub fn ready(&self) -> Result<()> {
        let text = self.text("/readyz")?;
        ensure!(text == "ok", "{text}");
        Ok(())
    }
}

/// The HTTP status that an error of [`Admin`] stands for.
pub fn code(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refused>().map(|refused| refused.code)
}

/// The objects of a YAML text.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("YAML")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Where objects of its kind are created.
fn collection(object: &Value) -> Result<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let version = text(&object["apiVersion"]).context("no apiVersion")?;
    let kind = text(&object["kind"]).context("no kind")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let lower = kind.to_ascii_lowercase();
    let plural = match lower.as_str() {
        "networkpolicy" => "networkpolicies".to_owned(),
        lower => format!("{lower}s"),
    };
    Ok(match text(&object["metadata"]["namespace"]) {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    })
}

fn path(object: &Value) -> Result<String> {
    let name = object["metadata"]["name"].as_str().context("no name")?;
    Ok(format!("{}/{name}", collection(object)?))
}
