//! Real applications: curl, Python and nginx, on either side.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use balancer_tests::{
    agent::{Agent, Dialled},
    topology::{Pod, Process, Scratch},
};
use serde::Deserialize;

use crate::{Counts, PATIENCE, PORT, World, eventually, expect, vip};

/// A world whose backends are nginx servers that answer with the name of their pod. UDP is still answered by peers.
struct Site {
    nginx: Vec<Process>,
    _files: Vec<Scratch>,
    world: World,
}

/// Size of the file that servers have, in bytes.
const FILE: usize = 300_000;

impl Site {
    fn new(backends: usize) -> Self {
        let mut world = World::new(backends);
        for server in &mut world.servers {
            server.process().kill().unwrap();
        }
        let mut site = Self { nginx: Vec::new(), _files: Vec::new(), world };
        for pod in &site.world.pods {
            let files = Scratch::files().unwrap();
            fs::write(files.path().join("file"), "x".repeat(FILE)).unwrap();
            let text = format!(
                "location = / {{ return 200 \"{}\\n\"; }} location = /file {{ alias {}/file; }}",
                pod.name(),
                files.path().display()
            );
            let server = format!("listen {}; listen {}; {text}", pod.v4(PORT), pod.v6(PORT));
            site.nginx.push(nginx(pod, files.path(), &format!("server {{ {server} }}")));
            site._files.push(files);
        }
        site.world.publish("web", 1, |service| service);
        site
    }
}

/// Starts nginx with a configuration of `http`, and waits until it listens.
fn nginx(pod: &Pod, files: &Path, http: &str) -> Process {
    let dir = files.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off; worker_processes 1; pid {dir}/pid; user root;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; keepalive_timeout 60;\n{temporary}{http} }}\n"
    );
    let configuration = files.join("nginx.conf");
    fs::write(&configuration, text).unwrap();
    let log = fs::File::create(files.join("log")).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p"]).arg(files).arg("-c").arg(&configuration);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut process = pod.spawn(command).unwrap();
    eventually("nginx listens", || {
        let log = || fs::read_to_string(files.join("log")).unwrap();
        assert!(process.exited().unwrap().is_none(), "nginx ended: {}", log());
        fs::read_to_string(files.join("pid")).is_ok_and(|text| !text.is_empty())
    });
    process
}

/// One transfer, as curl tells it.
#[derive(Debug, Deserialize)]
struct Transfer {
    remote_ip: String,
    remote_port: u16,
    num_connects: u64,
    http_code: u16,
    size_download: u64,
    size_header: u64,
    size_request: u64,
}

/// Runs curl in a pod, with bodies thrown away.
#[track_caller]
fn curl(pod: &Pod, arguments: &[&str], urls: &[String]) -> Vec<Transfer> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--globoff", "--max-time", "20"]);
    command.args(["--write-out", "%{json}\\n"]).args(arguments);
    for url in urls {
        command.args(["--output", "/dev/null", url]);
    }
    let output = pod.output(command).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let transfers: Vec<Transfer> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(transfers.len(), urls.len());
    assert!(transfers.iter().all(|transfer| transfer.http_code == 200), "{transfers:?}");
    transfers
}

fn url(to: SocketAddr, path: &str) -> String {
    format!("http://{to}{path}")
}

/// Payload of all backends: in and out.
fn bytes(agent: &Agent<'_>, to: SocketAddr) -> (u64, u64) {
    let stats = agent.stats_of(to).unwrap();
    (stats.total(|backend| backend.bytes_in), stats.total(|backend| backend.bytes_out))
}

#[test]
fn curl_with_a_connection_for_each_request() {
    let site = Site::new(3);
    let agent = site.world.agent();
    for to in [vip(1).v4, vip(1).v6] {
        let urls: Vec<String> = (0..9).map(|_| url(to, "/")).collect();
        for transfer in curl(&site.world.pod, &["--header", "Connection: close"], &urls) {
            assert_eq!(transfer.num_connects, 1);
            assert_eq!(transfer.remote_ip, to.ip().to_string(), "curl says whom it talks to");
            assert_eq!(transfer.remote_port, to.port());
        }
        let stats = expect(&agent, to, Counts::done(9));
        assert!(stats.backends.iter().all(|backend| backend.opened == 3), "{stats:#?}");
    }
}

#[test]
fn curl_with_one_connection_for_all_requests() {
    let site = Site::new(3);
    let agent = site.world.agent();
    for to in [vip(1).v4, vip(1).v6] {
        let urls = ["/", "/file", "/", "/file"].map(|path| url(to, path));
        let transfers = curl(&site.world.pod, &[], &urls);
        assert_eq!(transfers.iter().map(|transfer| transfer.num_connects).sum::<u64>(), 1, "{transfers:?}");
        expect(&agent, to, Counts::done(1));
        // What curl counts is what is counted for it.
        let received: u64 =
            transfers.iter().map(|transfer| transfer.size_header + transfer.size_download).sum();
        let sent = transfers.iter().map(|transfer| transfer.size_request).sum();
        assert!(received > 2 * FILE as u64);
        eventually("bytes", || bytes(&agent, to) == (received, sent));
    }
}

#[test]
fn curl_with_many_connections_at_once() {
    let site = Site::new(3);
    let agent = site.world.agent();
    let urls: Vec<String> = (0..30).map(|_| url(vip(1).v4, "/file")).collect();
    let transfers =
        curl(&site.world.pod, &["--parallel", "--parallel-immediate", "--parallel-max", "30"], &urls);
    let connects = transfers.iter().map(|transfer| transfer.num_connects).sum();
    let stats = expect(&agent, vip(1).v4, Counts::done(connects));
    let each: Vec<u64> = stats.backends.iter().map(|backend| backend.opened).collect();
    assert!(each.iter().max().unwrap() - each.iter().min().unwrap() <= 2, "{each:?}");
}

/// What `application.py` saw: addresses as it calls them, and how often each pod answered.
#[derive(Debug, Deserialize)]
struct Seen {
    kept: Vec<((String, u16), Vec<String>)>,
    short: BTreeMap<String, u64>,
    many: BTreeMap<String, u64>,
    datagrams: Vec<Vec<(String, u16)>>,
}

#[test]
fn a_python_program() {
    let mut site = Site::new(3);
    // Datagrams are answered by peers; nginx has the TCP ports.
    site.world.servers = site
        .world
        .pods
        .iter()
        .map(|pod| {
            let udp = vec![pod.v4(PORT), pod.v6(PORT)];
            let options = balancer_tests::peer::ServerOptions { udp, ..Default::default() };
            balancer_tests::peer::Server::start(pod, &options).unwrap()
        })
        .collect();
    let agent = site.world.agent();
    let (v4, v6) = (vip(1).v4, vip(1).v6);
    let mut command = Command::new("python3");
    command.args(["-c", include_str!("application.py")]);
    command.args([v4.ip().to_string(), v6.ip().to_string(), v4.port().to_string()]);
    let output = site.world.pod.output(command).unwrap();
    assert!(output.status.success(), "{output:?}");
    let seen: Seen = serde_json::from_slice(&output.stdout).unwrap();

    let names = [v4.ip().to_string(), v6.ip().to_string(), format!("::ffff:{}", v4.ip())];
    for (name, (peer, pods)) in names.iter().zip(&seen.kept) {
        assert_eq!(*peer, (name.clone(), 80));
        assert_eq!(pods.len(), 1, "one connection, one backend: {seen:?}");
    }
    assert_eq!(seen.short.values().sum::<u64>(), 60);
    assert!(seen.short.values().all(|count| (15..=25).contains(count)), "{seen:?}");
    assert_eq!(seen.many.values().copied().collect::<Vec<_>>(), [20; 3], "held at once: {seen:?}");
    for (name, sources) in names.iter().zip(&seen.datagrams) {
        assert_eq!(*sources, vec![(name.clone(), 80); 5]);
    }

    expect(&agent, v4, Counts::done(60 + 60 + 2));
    expect(&agent, v6, Counts::done(1));
    expect(&agent, Dialled::udp(v4), Counts::done(4));
    expect(&agent, Dialled::udp(v6), Counts::done(2));
}

#[test]
fn nginx_that_forwards_to_a_service_with_a_pool() {
    let site = Site::new(3);
    let agent = site.world.agent();
    let files = Scratch::files().unwrap();
    let proxy = format!(
        "upstream service {{ server {}; keepalive 8; }}\n\
         server {{ listen {}; location / {{ proxy_pass http://service; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}",
        vip(1).v4,
        site.world.pod.v4(PORT)
    );
    let mut proxy = nginx(&site.world.pod, files.path(), &proxy);
    let urls: Vec<String> = (0..20).map(|_| url(site.world.pod.v4(PORT), "/file")).collect();
    curl(site.world.node.host(), &[], &urls);
    // One after the other: the pool needs one connection, and keeps it.
    expect(&agent, vip(1).v4, Counts::open(1));
    curl(site.world.node.host(), &["--parallel", "--parallel-immediate", "--parallel-max", "20"], &urls);
    let stats = agent.stats_of(vip(1).v4).unwrap();
    let counts = Counts::of(&stats);
    assert!((1..=8).contains(&counts.active), "{counts:?}");
    assert_eq!(
        counts,
        Counts { active: counts.active, closed: counts.closed, ..Counts::open(counts.opened) }
    );
    assert_eq!(counts.opened, counts.closed + counts.active);
    // SIGTERM ends its worker too, which has the connections.
    proxy.terminate(PATIENCE).unwrap();
    expect(&agent, vip(1).v4, Counts::done(counts.opened));
}

#[test]
fn pythons_own_web_server_behind_a_service() {
    let mut world = World::new(2);
    world.servers.clear();
    let files = Scratch::files().unwrap();
    fs::write(files.path().join("file"), "x".repeat(FILE)).unwrap();
    let servers: Vec<Process> = world
        .pods
        .iter()
        .map(|pod| {
            let mut command = Command::new("python3");
            command.args(["-m", "http.server", &PORT.to_string(), "--bind", "::", "--directory"]);
            command.arg(files.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            pod.spawn(command).unwrap()
        })
        .collect();
    let probe = world.client();
    for pod in &world.pods {
        eventually("the server listens", || probe.connect(pod.v4(PORT)).is_ok());
    }
    world.publish("web", 1, |service| service);
    let agent = world.agent();
    for to in [vip(1).v4, vip(1).v6] {
        let urls: Vec<String> = (0..6).map(|_| url(to, "/file")).collect();
        let transfers = curl(&world.pod, &[], &urls);
        // HTTP/1.0: the server closes after each.
        let stats = expect(&agent, to, Counts::done(6));
        assert!(stats.backends.iter().all(|backend| backend.opened == 3), "{stats:#?}");
        let received: u64 =
            transfers.iter().map(|transfer| transfer.size_header + transfer.size_download).sum();
        let sent = transfers.iter().map(|transfer| transfer.size_request).sum();
        eventually("bytes", || bytes(&agent, to) == (received, sent));
    }
    drop(servers);
}

/// Data that is sent with the connect, or before there is one: connect() is then only part of another call.
#[test]
fn tcp_fast_open() {
    const PROGRAM: &str = r#"
import socket, sys
to = (sys.argv[1], 80)
first = socket.socket()
first.sendto(b"who\n", socket.MSG_FASTOPEN, to)
second = socket.socket()
second.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
second.connect(to)
second.sendall(b"who\n")
for connection in first, second:
    connection.settimeout(5)
    assert connection.recv(1000).startswith(b'{"pod":"web-1"')
    assert connection.getpeername() == to
    connection.close()
"#;
    let mut world = World::web(1);
    // Enabled on either side, for every listener, and without cookies: the SYN carries the question.
    world.pod.netns().sysctl(&[("net/ipv4/tcp_fastopen", "5")]).unwrap();
    world.pods[0].netns().sysctl(&[("net/ipv4/tcp_fastopen", &0x602.to_string())]).unwrap();
    world.servers.clear();
    world.servers.push(world.pods[0].server(PORT).unwrap());
    let agent = world.agent();
    for round in 1..=2 {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM, &vip(1).v4.ip().to_string()]);
        let output = world.pod.output(command).unwrap();
        assert!(output.status.success(), "{output:?}");
        expect(&agent, vip(1).v4, Counts::done(2 * round));
        eventually("bytes", || bytes(&agent, vip(1).v4).1 == 2 * round * 4);
    }
    let mut nstat = Command::new("nstat");
    nstat.args(["-asz", "TcpExtTCPFastOpenPassive"]);
    let output = world.pods[0].output(nstat).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.lines().any(|line| line.starts_with("TcpExtTCPFastOpenPassive") && line.contains(" 4 ")),
        "{text}"
    );
}
