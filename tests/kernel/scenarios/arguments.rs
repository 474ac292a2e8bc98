//! Hundreds of valid and invalid table lines and messages, given to dmsetup and to the project's
//! parsers.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write as _};

use anyhow::{Context as _, Result, bail, ensure};
use clone_core::dm_target::{
    Arguments, DevicePaths, Message, Options, Status, StatusCounts, StatusLine, TableLine,
};
use clone_tests::arguments::{
    DEST, DEVICE_SECTORS, Difference, Expected, LENGTH, META, SRC, expected_arguments,
    expected_line, expected_message, messages, table_arguments, table_lines,
};

use crate::context::Context;
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "our parsers take and refuse what the kernel does, and understand the same by it";

/// The kernel's answer to a text.
struct Answer {
    /// True if the kernel accepted it.
    taken: bool,
    /// Status of the clone after that.
    status: String,
    /// Table of the clone after that.
    table: String,
}

/// Number of texts by outcome.
#[derive(Default)]
struct Count {
    taken: usize,
    refused: usize,
    differences: BTreeSet<Difference>,
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    let mut disks = Vec::new();
    for name in [META, DEST, SRC] {
        disks.push(vm.attach(&context.empty(name, DEVICE_SECTORS.0)?)?.node);
    }
    let mut guest = Guest { vm, disks };
    let mut rng = context.rng(0);
    let mut count = Count::default();

    let texts = table_arguments(&mut rng);
    let lines: Vec<String> =
        texts.iter().map(|text| format!("0 {} clone {text}", LENGTH.0)).collect();
    let answers = guest.load_each(&lines)?;
    count.judge(&texts, expected_arguments, &answers, |expected, answer| {
        let Some(arguments) = &expected.reading else { return Ok(()) };
        guest.same_clone(arguments, LENGTH.0, answer)?;
        expected.ours.as_ref().map_or(Ok(()), |ours| guest.same_table(ours, LENGTH.0, answer))
    })?;

    let texts = table_lines(&mut rng);
    let answers = guest.create_each(&texts)?;
    count.judge(&texts, expected_line, &answers, |expected: &Expected<TableLine>, answer| {
        let Some(line) = &expected.reading else { return Ok(()) };
        guest.same_clone(line.arguments(), line.geometry().target_size().0, answer)
    })?;

    let texts = messages(&mut rng);
    let answers = guest.send_each(&texts)?;
    let mut options = Options { hydration: false, ..Options::default() };
    count.judge(&texts, expected_message, &answers, |expected, answer| {
        if let Some(message) = &expected.reading {
            change(&mut options, message);
        }
        ensure!(running(answer)?.options == options, "afterwards the status is {}", answer.status);
        Ok(())
    })?;

    ensure!(
        count.differences.iter().eq(&Difference::ALL),
        "docs/differences.md lists more than was seen: {:?}",
        count.differences
    );
    context.say(format!(
        "{} texts that the kernel takes, {} that it refuses, and {} differences by choice",
        count.taken,
        count.refused,
        count.differences.len()
    ));
    Ok(())
}

impl Count {
    /// Compares the parser's result for each text with the kernel's answer.
    fn judge<T: Clone + Debug>(
        &mut self,
        texts: &[String],
        expected: fn(&str) -> Expected<T>,
        answers: &[Answer],
        mut same: impl FnMut(&Expected<T>, &Answer) -> Result<()>,
    ) -> Result<()> {
        let mut wrong = String::new();
        for (text, answer) in texts.iter().zip(answers) {
            let expected = expected(text);
            *(if answer.taken { &mut self.taken } else { &mut self.refused }) += 1;
            self.differences.extend(expected.difference);
            if expected.taken != answer.taken {
                let kernel = if answer.taken { "takes" } else { "refuses" };
                writeln!(wrong, "the kernel {kernel} {text:?}, and we say {:?}", expected.ours)?;
            } else if let Err(error) = same(&expected, answer) {
                writeln!(wrong, "{text:?}: {error:#}; we understand {:?}", expected.reading)?;
            }
        }
        if !wrong.is_empty() {
            bail!("{wrong}");
        }
        Ok(())
    }
}

/// A guest with the three devices.
struct Guest {
    vm: Vm,
    disks: Vec<String>,
}

impl Guest {
    /// Replaces the placeholders in a text by the real devices.
    fn with_devices(&self, text: &str) -> String {
        let names = [META, DEST, SRC].iter().zip(&self.disks);
        names.fold(text.to_owned(), |text, (name, node)| text.replace(name, node))
    }

    /// Tries to create a clone with each line.
    fn create_each(&mut self, lines: &[String]) -> Result<Vec<Answer>> {
        let steps = [
            "dmsetup create clone --table \"$1\"",
            "dmsetup status clone",
            "dmsetup table clone",
            "dmsetup remove clone",
        ];
        self.try_each(lines, steps)
    }

    /// Tries to load each line into an existing device without using it. That tests the same code
    /// of dmsetup's parser and the kernel's, in half the time.
    fn load_each(&mut self, lines: &[String]) -> Result<Vec<Answer>> {
        self.vm.script("dmsetup create clone --notable")?;
        let steps = [
            "dmsetup load clone --table \"$1\"",
            "dmsetup status --inactive clone",
            "dmsetup table --inactive clone",
            "dmsetup clear clone",
        ];
        let answers = self.try_each(lines, steps);
        self.vm.remove(&["clone"])?;
        answers
    }

    fn try_each(&mut self, lines: &[String], steps: [&str; 4]) -> Result<Vec<Answer>> {
        let [take, status, table, clear] = steps;
        // A refused line writes no metadata. An accepted line has written some to $2.
        let mut script = format!(
            "try() {{
                if {take} > /dev/null 2>&1; then
                    echo '== taken'
                    {status}
                    echo '-- table'
                    {table}
                    {clear}
                    dd if=/dev/zero of=$2 bs=4k count=1 conv=fsync 2> /dev/null
                else
                    echo '== refused'
                fi
            }}\n"
        );
        for line in lines {
            let is_device = |word: &&str| [META, DEST, SRC].contains(word);
            let metadata = line.split_whitespace().find(is_device).unwrap_or(META);
            let [line, metadata] = [line, metadata].map(|text| quoted(&self.with_devices(text)));
            writeln!(script, "try {line} {metadata}")?;
        }
        answers(&self.vm.script(&script)?, lines.len())
    }

    /// Sends the messages to a clone, one after the other.
    fn send_each(&mut self, messages: &[String]) -> Result<Vec<Answer>> {
        let line = self.with_devices("META DEST SRC 8 1 no_hydration");
        let mut script = format!("dmsetup create clone --table '0 {} clone {line}'\n", LENGTH.0);
        script += "try() {
                if dmsetup message clone 0 \"$1\" > /dev/null 2>&1; then
                    echo '== taken'
                else
                    echo '== refused'
                fi
                dmsetup status clone
            }\n";
        for message in messages {
            writeln!(script, "try {}", quoted(message))?;
        }
        script += "dmsetup remove clone\n";
        answers(&self.vm.script(&script)?, messages.len())
    }

    /// Checks that the kernel's clone is the one that the parser describes.
    fn same_clone(&self, ours: &Arguments, length: u64, answer: &Answer) -> Result<()> {
        let figures = running(answer)?;
        ensure!(
            answer.status.starts_with(&format!("0 {length} clone "))
                && figures.region_size == ours.region_size()
                && figures.options == ours.options(),
            "the status is {:?}",
            answer.status
        );
        Ok(())
    }

    /// Checks that the kernel prints the same table as the project.
    fn same_table(&self, ours: &Arguments, length: u64, answer: &Answer) -> Result<()> {
        // Disk minor numbers are multiples of sixteen, under SCSI's first major number.
        let number = |name: &str| {
            let node = self.with_devices(name);
            let letter = node.bytes().last().unwrap_or_default();
            format!("8:{}", 16 * u32::from(letter.saturating_sub(b'a')))
        };
        let DevicePaths { metadata, destination, source } = ours.devices();
        let words = ours.to_string();
        let names = format!("{metadata} {destination} {source} ");
        let rest = words.strip_prefix(&names).with_context(|| words.clone())?;
        let [metadata, destination, source] =
            [metadata, destination, source].map(|name| number(name));
        let ours = format!("0 {length} clone {metadata} {destination} {source} {rest}");
        // The kernel ends words at the second byte of this letter: a difference in the document.
        ensure!(
            answer.table == ours || ours.contains('\u{a0}'),
            "the table is {:?}, and we print {ours:?}",
            answer.table
        );
        Ok(())
    }
}

/// Returns the figures of the clone after a text.
fn running(answer: &Answer) -> Result<StatusCounts> {
    let line = StatusLine::parse(&answer.status).with_context(|| answer.status.clone())?;
    ensure!(line.to_string() == answer.status, "{:?} is printed as {line}", answer.status);
    let Status::Running(figures) = line.status else { bail!("the status is {line}") };
    Ok(figures)
}

fn change(options: &mut Options, message: &Message) {
    match *message {
        Message::EnableHydration => options.hydration = true,
        Message::DisableHydration => options.hydration = false,
        Message::HydrationThreshold(regions) => options.hydration_threshold = regions,
        Message::HydrationBatchSize(regions) => options.hydration_batch_size = regions,
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn answers(text: &str, count: usize) -> Result<Vec<Answer>> {
    let answers: Vec<Answer> = text.split("== ").skip(1).map(answer).collect();
    ensure!(answers.len() == count, "{} answers to {count} texts", answers.len());
    Ok(answers)
}

fn answer(text: &str) -> Answer {
    let (verdict, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (status, table) = rest.split_once("-- table\n").unwrap_or((rest, ""));
    let whole = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
    Answer { taken: verdict == "taken", status: whole(status), table: whole(table) }
}
