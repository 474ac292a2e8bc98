//! The emulator's control socket (QEMU Machine Protocol: one JSON document per line).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// An open control socket.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    /// Events that arrived while an answer was awaited.
    events: Vec<Value>,
}

impl Qmp {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let mut qmp = Self { reader: BufReader::new(stream), events: Vec::new() };
        qmp.receive().context("the emulator's greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("the emulator is gone");
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Executes a command and returns its result.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.reader.get_mut(), "{request}")?;
        loop {
            let mut answer = self.receive().with_context(|| command.to_owned())?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if answer.get("event").is_some() {
                self.events.push(answer);
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// Waits for an event about a device.
    pub(crate) fn wait_for(&mut self, event: &str, device: &str) -> Result<()> {
        loop {
            let wanted =
                |value: &Value| value["event"] == event && value["data"]["device"] == device;
            if let Some(at) = self.events.iter().position(wanted) {
                self.events.swap_remove(at);
                return Ok(());
            }
            let received = self.receive().with_context(|| format!("waiting for {event}"))?;
            self.events.push(received);
        }
    }

    /// Repeats `command` until the answer's status is `wanted`.
    pub(crate) fn wait_until(&mut self, command: &str, wanted: &str) -> Result<()> {
        loop {
            let answer = self.execute(command, json!({}))?;
            match answer["status"].as_str() {
                Some(status) if status == wanted => return Ok(()),
                Some("failed") => bail!("{command}: {answer}"),
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}
