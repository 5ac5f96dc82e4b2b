//! reqwest: a client for each task. `../README.md` has the variables that are read here and the lines that are written.

use std::{env, fmt::Display, fmt::Write as _, time::Duration};

use tokio::{io::AsyncReadExt as _, sync::watch, task::JoinSet, time};

/// How long a request may take before it is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the version of the library stands.
const LOCK: &str = include_str!("../Cargo.lock");

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("library reqwest {}", version());
    let (stop, stopped) = watch::channel(());
    let mut workers = JoinSet::new();
    for worker in 0..number("CLIENT_CONNECTIONS") {
        workers.spawn(work(worker, stopped.clone()));
    }
    // Only the end of the input means something.
    _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    drop(stop);
    workers.join_all().await;
}

async fn work(worker: u64, mut stopped: watch::Receiver<()>) {
    let client = reqwest::Client::builder().timeout(PATIENCE).build().expect("a client");
    let url = format!("http://{}", env::var("CLIENT_TARGET").expect("CLIENT_TARGET"));
    let (burst, from, to) =
        (number("CLIENT_BURST"), number("CLIENT_THINK_MIN_MS"), number("CLIENT_THINK_MAX_MS"));
    let mut next = 0;
    let mut pause = fastrand::u64(..=to);
    // The channel closes when the client shall end.
    while time::timeout(Duration::from_millis(pause), stopped.changed()).await.is_err() {
        for _ in 0..burst {
            let id = format!("{worker}-{next}");
            next += 1;
            println!("sent {id}");
            match ask(&client, &url, &id).await {
                Ok(answer) if answer == id => println!("ok {id}"),
                Ok(answer) => println!("error {id} answered {answer:?}"),
                Err(error) => println!("error {id} {}", with_causes(&error)),
            }
        }
        pause = fastrand::u64(from..=to);
    }
}

async fn ask(client: &reqwest::Client, url: &str, id: &str) -> reqwest::Result<String> {
    client.post(format!("{url}/{id}")).send().await?.error_for_status()?.text().await
}

/// An error and what it came from, on one line.
fn with_causes(error: &dyn std::error::Error) -> impl Display {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        _ = write!(text, ": {error}");
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// The library's version, as it was built.
fn version() -> &'static str {
    let after = LOCK.split_once("name = \"reqwest\"\nversion = \"").map(|(_, after)| after);
    after.and_then(|after| after.split('"').next()).unwrap_or("of unknown version")
}

fn number(variable: &str) -> u64 {
    let text = env::var(variable).unwrap_or_default();
    text.parse().unwrap_or_else(|error| panic!("{variable}: {error}"))
}
