//! Clones of a host, with a control socket.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use clone_daemon::control::line::{Lines, write};
use clone_daemon::control::protocol::{Reply, Request, Verb};
use clone_daemon::control::{BoundSocket, Server};
use clone_daemon::host::Host;
use clone_daemon::source::SourceOptions;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::support::LONG;

/// A host with a clonetab and a control socket.
pub(crate) struct Hosting {
    pub(crate) folder: TempDir,
    pub(crate) host: Arc<Host>,
    server: Option<Server>,
}

impl Hosting {
    /// Creates a host with these clones of a source of 1 MiB, with 4 KiB regions. Hydration is
    /// disabled at first.
    pub(crate) fn new(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("source"), vec![7; 1 << 20]).unwrap();
        let tab = folder.path().join("clonetab");
        let host = Arc::new(Host::new(SourceOptions::default(), Some(tab)));
        let mut hosting = Self { folder, host, server: None };
        let lines: Vec<String> = names.iter().map(|name| hosting.line(name)).collect();
        hosting.write_table(&lines);
        hosting.host.reload().unwrap();
        let socket = BoundSocket::bind(hosting.socket()).unwrap();
        hosting.server = Some(socket.serve(hosting.host.clone()).unwrap());
        hosting
    }

    pub(crate) fn write_table(&self, lines: &[String]) {
        fs::write(self.folder.path().join("clonetab"), lines.join("\n")).unwrap();
    }

    /// Returns the clonetab line of a clone called `name`.
    pub(crate) fn line(&self, name: &str) -> String {
        let path = |what: &str| self.folder.path().join(what).display().to_string();
        let (destination, metadata) = (format!("{name}.data"), format!("{name}.meta"));
        let source = path("source");
        format!("{name} {source} {} {} no_hydration", path(&destination), path(&metadata))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Stops only the server.
    pub(crate) fn stop_server(&mut self) {
        self.server.take().unwrap().stop();
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer(UnixStream::connect(self.socket()).unwrap())
    }

    /// Runs clonectl.
    pub(crate) fn clonectl(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clonectl"));
        let ran = command.env("CLONED_SOCKET", self.socket()).args(args).output().unwrap();
        Ran(ran)
    }
}

/// The result of clonectl.
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    /// Returns the output of a successful run.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        assert_eq!(self.0.status.code(), Some(0), "{}", self.complaint());
        assert_eq!(self.complaint(), "");
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// Returns the output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Returns the error message of a run that failed with `code`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> String {
        let complaint = self.complaint();
        assert_eq!(self.0.status.code(), Some(code), "{complaint}");
        complaint
    }

    fn complaint(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }
}

/// A connection to a control socket.
pub(crate) struct Peer(pub(crate) UnixStream);

impl Peer {
    pub(crate) fn send(&self, verb: Verb) {
        write(&mut &self.0, &Request::new(verb)).unwrap();
    }

    /// Returns the lines of the connection. Each read waits for a line.
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines::new(&self.0)
    }

    /// Sends a command. Returns the items of the reply and its last line.
    pub(crate) fn ask(&self, verb: Verb) -> (Vec<Reply>, Reply) {
        self.send(verb);
        answer(&mut self.lines())
    }
}

/// Returns the items of the next reply and its last line.
pub(crate) fn answer(lines: &mut Lines<'_>) -> (Vec<Reply>, Reply) {
    let mut items = Vec::new();
    loop {
        let reply: Reply = lines.next(LONG, LONG).unwrap().expect("the answer has an end");
        if reply.item.is_none() {
            return (items, reply);
        }
        items.push(reply);
    }
}
