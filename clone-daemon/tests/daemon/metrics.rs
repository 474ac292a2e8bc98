//! The metrics endpoint, with Prometheus and with clients that break HTTP.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hosting::{Hosting, LONG};
use crate::support::{free_address, program};
use clone_core::engine::{Command as Message, Operation};
use clone_daemon::metrics::{BoundMetrics, CONNECTIONS_MAX, Server};
use serde_json::Value;

fn serve(hosting: &Hosting) -> Server {
    let bound = BoundMetrics::bind("tcp:127.0.0.1:0".parse().unwrap(), false).unwrap();
    bound.serve(hosting.host.clone()).unwrap()
}

/// Sends `request` and returns the response.
fn ask(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address().0).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metrics(server: &Server) -> String {
    let answer = ask(server, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// Reads and writes `name`, and hydrates some of it.
fn use_clone(hosting: &Hosting, name: &str) {
    let clone = hosting.host.find(name).unwrap();
    clone.command(Message::parse("hydrate 0 64k").unwrap()).unwrap();
    let user = clone.volume().user();
    for operation in [Operation::Write, Operation::Read, Operation::Flush] {
        let range = if operation == Operation::Flush { 0..0 } else { 512..4608 };
        let buffer = vec![1; (range.end - range.start) as usize];
        let (done, wait) = mpsc::channel();
        user.submit(operation, range, false, buffer, move |result, _| done.send(result).unwrap());
        assert_eq!(wait.recv_timeout(LONG).unwrap(), Ok(()));
    }
}

#[test]
fn all_numbers_of_a_clone_are_told() {
    let hosting = Hosting::new(&["disk"]);
    let server = serve(&hosting);
    use_clone(&hosting, "disk");
    let clone = hosting.host.find("disk").unwrap();
    while clone.running().progress().hydrated < 16 {
        thread::yield_now();
    }
    let text = metrics(&server);
    for line in [
        "# TYPE cloned_regions_hydrated gauge",
        "cloned_regions_hydrated{clone=\"disk\"} 16",
        "cloned_regions{clone=\"disk\"} 256",
        "cloned_mode{clone=\"disk\"} 0",
        "cloned_hydration_enabled{clone=\"disk\"} 0",
        "cloned_nbd_connections{clone=\"disk\"} 0",
        "cloned_nbd_connections_max 0",
        "# TYPE cloned_nbd_connections_refused_total counter",
        "# TYPE cloned_fetched_bytes_total counter",
        "# TYPE cloned_request_duration_seconds histogram",
        concat!("cloned_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|told| told == line), "{line}\n{text}");
    }
    let sum = |start: &str| {
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let of = |name: &str, operation: &str| {
        sum(&format!("{name}{{clone=\"disk\",operation=\"{operation}\""))
    };
    assert_eq!(of("cloned_request_duration_seconds_count", "write"), 1.0);
    assert_eq!(of("cloned_request_bytes_total", "read"), 4096.0);
    assert_eq!(of("cloned_requests_failed_total", "flush"), 0.0);
    hosting.host.remove("disk").unwrap();
    assert!(!metrics(&server).contains("clone=\"disk\""));
    server.stop();
}

#[test]
fn whoever_speaks_http_badly_is_told_so_and_holds_up_nobody() {
    let hosting = Hosting::new(&["disk"]);
    let server = serve(&hosting);
    // Clients that send nothing, or an incomplete request.
    let silent: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect(server.address().0).unwrap()).collect();
    (&silent[0]).write_all(b"GET /met").unwrap();
    let long = [&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'x'; 20_000]].concat();
    for (request, status) in [
        (&b"fly\r\n\r\n"[..], "400"),
        (b"GET / HTTP/1.1\r\n\0\r\n\r\n", "400"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
        (&long, "431"),
    ] {
        let answer = ask(&server, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    assert!(metrics(&server).contains("cloned_regions"));
    // Stopping does not wait for silent clients.
    server.stop();
    drop(silent);
}

#[test]
fn those_who_say_nothing_make_way_for_those_who_ask() {
    let hosting = Hosting::new(&["disk"]);
    let server = serve(&hosting);
    let connect = || TcpStream::connect(server.address().0).unwrap();
    let silent: Vec<TcpStream> = (0..3 * CONNECTIONS_MAX).map(|_| connect()).collect();
    for _ in 0..3 {
        assert!(metrics(&server).contains("cloned_log_lines_lost_total 0"));
    }
    // The first connection was closed at once, the last one was not.
    silent[0].set_read_timeout(Some(LONG)).unwrap();
    assert_eq!((&silent[0]).read(&mut [0; 1]).unwrap(), 0);
    let mut last = silent.last().unwrap();
    last.set_read_timeout(Some(LONG)).unwrap();
    last.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    // The request may have been too late, which the response says.
    let is_told = ["HTTP/1.1 200 ", "HTTP/1.1 408 "].iter().any(|told| answer.starts_with(told));
    assert!(is_told, "{answer}");
}

#[test]
fn promtool_finds_no_fault_with_the_metrics() {
    let Some(promtool) = program("promtool") else { return };
    let hosting = Hosting::new(&["disk"]);
    let server = serve(&hosting);
    use_clone(&hosting, "disk");
    let mut promtool = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(metrics(&server).as_bytes()).unwrap();
    let ran = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.is_empty(), "{said}");
}

/// A running Prometheus.
struct Prometheus {
    process: Child,
    base: String,
}

impl Prometheus {
    fn start(program: &Path, folder: &Path, server: &Server) -> Self {
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: cloned, static_configs: [{{targets: ['{}']}}]}}]\n",
            server.address().0
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let address = free_address();
        let process = Command::new(program)
            .current_dir(folder)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, base: format!("http://{address}/api/v1/query") }
    }

    /// Returns the result of a query, or its error. `None` while there is no response.
    fn query(&self, query: &str) -> Option<Value> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let answer = agent.get(&self.base).query("query", query).call();
        let text = answer.ok()?.body_mut().read_to_string().ok()?;
        serde_json::from_str(&text).ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn dashboard() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboard.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns the queries of all panels, with values for Grafana's variables.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    queries.map(|query| query.replace("$clone", ".*").replace("$__rate_interval", "1m")).collect()
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let hosting = Hosting::new(&["disk"]);
    let server = serve(&hosting);
    let text = metrics(&server);
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let queries = queries().join("\n");
    let aside = ["cloned_size_bytes", "cloned_region_bytes", "cloned_hydrate_on_read"];
    for name in names.map(|line| line.split(' ').next().unwrap()) {
        assert!(queries.contains(name) || aside.contains(&name), "{name} is on no panel");
    }
}

#[test]
fn prometheus_answers_every_query_of_the_dashboard() {
    let Some(program) = program("prometheus") else { return };
    let hosting = Hosting::new(&["disk"]);
    let server = serve(&hosting);
    let prometheus = Prometheus::start(&program, hosting.folder.path(), &server);
    let until = Instant::now() + LONG;
    let mut left = queries();
    assert!(left.len() > 25);
    while !left.is_empty() {
        assert!(Instant::now() < until, "no answers to {left:#?}");
        use_clone(&hosting, "disk");
        left.retain(|query| {
            let Some(answer) = prometheus.query(query) else { return true };
            // A wrong query stays wrong, so waiting would not help.
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            answer["data"]["result"].as_array().is_none_or(Vec::is_empty)
        });
        thread::sleep(Duration::from_millis(200));
    }
}
