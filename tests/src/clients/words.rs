//! What a client says, read: `tests/clients/README.md`.

use std::{collections::HashMap, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A request, as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its id.
    pub id: String,
    /// When it was handed to the library.
    pub sent: Instant,
    /// How it ended, and when.
    pub end: Option<(Instant, End)>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With its answer.
    Answered,
    /// With an error, in the library's words.
    Failed(String),
}

/// All that a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Name and version of the library.
    pub library: String,
    /// Its requests, in the order in which they were sent.
    pub requests: Vec<Request>,
}

impl Client {
    /// Reads its lines.
    ///
    /// # Errors
    ///
    /// At the first line that breaks the agreement: a count that is not understood must not look like a good one.
    pub fn read(lines: &[(Instant, String)]) -> Result<Self> {
        let (first, rest) = lines.split_first().context("the client said nothing")?;
        let library = first.1.strip_prefix("library ").context("the client did not say what it is")?;
        let mut requests: Vec<Request> = Vec::new();
        let mut index = HashMap::new();
        for (at, line) in rest {
            let mut words = line.splitn(3, ' ');
            let (Some(verb), Some(id)) = (words.next(), words.next()) else {
                bail!("not understood: {line}")
            };
            let text = words.next().unwrap_or_default();
            let end = match verb {
                "sent" => {
                    let before = index.insert(id, requests.len());
                    ensure!(before.is_none(), "sent twice by the client itself: {id}");
                    requests.push(Request { id: id.to_owned(), sent: *at, end: None });
                    continue;
                }
                "ok" => End::Answered,
                "error" => End::Failed(text.to_owned()),
                _ => bail!("not understood: {line}"),
            };
            let sent = index.get(id).and_then(|&index| requests.get_mut(index));
            let request = sent.with_context(|| format!("never sent: {line}"))?;
            ensure!(request.end.is_none(), "ended twice: {line}");
            request.end = Some((*at, end));
        }
        Ok(Self { library: library.to_owned(), requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Client> {
        let now = Instant::now();
        Client::read(&text.lines().map(|line| (now, line.to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn requests_end_in_any_order_or_not_at_all() {
        let text = "library x 1.2\nsent 0-0\nsent 1-0\nsent 2-0\nerror 1-0 Reset: by peer\nok 0-0";
        let client = read(text).unwrap();
        assert_eq!(client.library, "x 1.2");
        let ends: Vec<_> =
            client.requests.iter().map(|request| request.end.as_ref().map(|end| &end.1)).collect();
        let failed = End::Failed("Reset: by peer".into());
        assert_eq!(ends, [Some(&End::Answered), Some(&failed), None]);
    }

    #[test]
    fn what_breaks_the_agreement_is_not_passed_over() {
        for text in [
            "",
            "sent 0-0",
            "library x\nok 0-0",
            "library x\nsent 0-0\nsent 0-0",
            "library x\nsent 0-0\nok 0-0\nerror 0-0 late",
            "library x\nWarning: deprecated",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
