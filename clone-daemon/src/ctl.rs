//! `clonectl`: sends requests to the daemon through its [control socket](crate::control), and
//! prints the answers.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use clone_tools::common::exit::{Exit, usage_error};
use clone_tools::common::output;

use self::args::{ClonectlArgs, CreateArgs, Verb as Args};
use self::connection::Connection;
use crate::control::protocol::{CloneStatus, Event, Item, Verb};

pub mod args;
mod connection;
mod show;
pub mod watch;

/// Runs `clonectl`.
///
/// # Errors
/// The command line is invalid, the daemon cannot be reached or refuses the request, or the output
/// cannot be written.
pub fn run(args: &ClonectlArgs) -> Result<Exit> {
    // The command line is checked before the daemon is contacted.
    let verb = Prepared::of(&args.verb)?;
    let daemon = connect(args.socket.as_deref())?;
    match verb {
        Prepared::Plain(verb) => daemon.ask(verb, |_| Ok(()))?,
        Prepared::Show(args) => show(&daemon, args)?,
    }
    Ok(Exit::Success)
}

fn connect(socket: Option<&Path>) -> Result<Connection> {
    Connection::open(connection::socket(socket)?)
}

/// A verb with valid arguments.
enum Prepared<'a> {
    /// A verb that prints nothing.
    Plain(Verb),
    /// A verb that prints its answer.
    Show(&'a Args),
}

impl<'a> Prepared<'a> {
    fn of(args: &'a Args) -> Result<Self> {
        Ok(Self::Plain(match args {
            Args::Message { name, message } => {
                Verb::Message { name: name.clone(), message: joined(message)? }
            }
            Args::Suspend { name } => Verb::Suspend { name: name.clone() },
            Args::Resume { name } => Verb::Resume { name: name.clone() },
            Args::Wait { name, event_nr, verbose: false } => {
                Verb::Wait { name: name.clone(), after: *event_nr }
            }
            Args::Create(args) => Verb::Create { line: line(args)? },
            Args::Remove { name } => Verb::Remove { name: name.clone() },
            other => return Ok(Self::Show(other)),
        }))
    }
}

/// Joins the words of a message. As with dmsetup, a sector 0 may come before it.
fn joined(words: &[String]) -> Result<String> {
    let is_number = |word: &String| word.bytes().all(|byte| byte.is_ascii_digit());
    let words = match words {
        [sector, message @ ..] if !sector.is_empty() && is_number(sector) => {
            if sector.trim_start_matches('0').is_empty() && !message.is_empty() {
                message
            } else {
                let text = format!(
                    "{sector} is not a message; as the sector of dmsetup, only 0 is allowed"
                );
                return Err(usage_error::<ClonectlArgs>(text));
            }
        }
        words => words,
    };
    Ok(words.join(" "))
}

/// Builds a clonetab line with absolute paths.
fn line(args: &CreateArgs) -> Result<String> {
    let CreateArgs { line, name, source, destination, metadata, options } = args;
    let named = [name, source, destination, metadata, options].into_iter().flatten();
    let words: Vec<&str> = match &line[..] {
        [] => named.map(String::as_str).collect(),
        [whole] => whole.split_whitespace().collect(),
        words => words.iter().map(String::as_str).collect(),
    };
    let cannot = |word: &&&str| {
        word.is_empty() || word.starts_with('#') || word.contains(char::is_whitespace)
    };
    if let Some(word) = words.iter().find(cannot) {
        let text = format!(
            "{word:?} cannot be written in a clonetab: it is empty, a comment or contains \
             white space"
        );
        return Err(usage_error::<ClonectlArgs>(text));
    }
    if !(4..=5).contains(&words.len()) {
        let text = "a clone needs a name, a source, a destination, metadata and optional options";
        return Err(usage_error::<ClonectlArgs>(text));
    }
    let words = words.into_iter().enumerate().map(|(at, word)| match at {
        1..=3 if !word.contains("://") => absolute(word),
        _ => Ok(word.to_owned()),
    });
    Ok(words.collect::<Result<Vec<_>>>()?.join(" "))
}

/// Makes a path absolute, since cloned has another working directory.
fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot find {path}"))?;
    let gaps = || {
        anyhow!("{} cannot be written in a clonetab: it contains white space", absolute.display())
    };
    absolute
        .to_str()
        .filter(|path| !path.contains(char::is_whitespace))
        .map(str::to_owned)
        .ok_or_else(gaps)
}

fn show(daemon: &Connection, args: &Args) -> Result<()> {
    match args {
        Args::Ls { json } => {
            let clones = statuses(daemon, None, false)?;
            output::say(|to| match json {
                true => show::json(to, &clones),
                false => show::list(to, &clones),
            })
        }
        Args::Status { name, noflush, json } => {
            let clones = statuses(daemon, name.as_deref(), !noflush)?;
            output::say(|to| match (json, name, &clones[..]) {
                (true, Some(_), [one]) => show::json(to, one),
                (true, ..) => show::json(to, &clones),
                (false, ..) => {
                    let lines = clones.iter().map(|clone| (&*clone.name, &*clone.status));
                    show::lines(to, lines, name.is_some())
                }
            })
        }
        Args::Table { name } => {
            let mut tables = Vec::new();
            daemon.ask(Verb::Table { name: name.clone() }, |item| {
                let Item::Table { name, line } = item else { return Err(strange()) };
                tables.push((name, line));
                Ok(())
            })?;
            let lines = tables.iter().map(|(name, line)| (&**name, &**line));
            output::say(|to| show::lines(to, lines, name.is_some()))
        }
        Args::Wait { name, event_nr, .. } => {
            let verb = Verb::Wait { name: name.clone(), after: *event_nr };
            daemon.ask(verb, |item| print_event(item, false))
        }
        Args::Events { name, follow, json } => {
            let verb = Verb::Events { name: name.clone(), follow: *follow };
            daemon.ask(verb, |item| print_event(item, *json))
        }
        Args::Reload => reload(daemon),
        Args::Watch { name, interval } => watch::run(daemon, name, *interval),
        _ => Err(strange()),
    }
}

fn statuses(daemon: &Connection, name: Option<&str>, flush: bool) -> Result<Vec<CloneStatus>> {
    let mut clones = Vec::new();
    let name = name.map(str::to_owned);
    daemon.ask(Verb::Status { name, flush }, |item| {
        let Item::Clone(clone) = item else { return Err(strange()) };
        clones.push(*clone);
        Ok(())
    })?;
    Ok(clones)
}

fn reload(daemon: &Connection) -> Result<()> {
    let (named, failed) = daemon.ask_one(Verb::Reload, |item| match item {
        Item::Reloaded { added, removed, changed, failed } => {
            Some(([added, removed, changed], failed))
        }
        _ => None,
    })?;
    output::say(|to| show::reloaded(to, &named))?;
    match &failed[..] {
        [] => Ok(()),
        failed => {
            let told = failed.iter().map(|(name, why)| format!("{name}: {why}"));
            let told: Vec<String> = told.collect();
            Err(anyhow!("parts of the clonetab were not applied: {}", told.join("; ")))
        }
    }
}

/// Prints an event immediately. A closed output ends the program.
fn print_event(item: Item, json: bool) -> Result<()> {
    let Item::Event(event) = item else { return Err(strange()) };
    let event: &Event = &event;
    output::write_to(None, |to| match json {
        true => show::json(to, event),
        false => show::event(to, event),
    })
}

fn strange() -> anyhow::Error {
    anyhow!("this clonectl does not know the answer of cloned: use the one that came with it")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::args::{ClonectlArgs, Verb as Args};
    use super::{Prepared, Verb};

    fn asked(line: &[&str]) -> Result<Verb, String> {
        let words = [&["clonectl"], line].concat();
        let args = ClonectlArgs::try_parse_from(words).map_err(|error| error.to_string())?;
        match Prepared::of(&args.verb).map_err(|error| error.to_string())? {
            Prepared::Plain(verb) => Ok(verb),
            Prepared::Show(_) => Err("prints something".into()),
        }
    }

    #[test]
    fn a_message_may_have_the_sector_that_dmsetup_wants() {
        let message = |words: &[&str]| match asked(&[&["message", "disk"], words].concat()) {
            Ok(Verb::Message { message, .. }) => Ok(message),
            Ok(_) => Err("another verb".into()),
            Err(error) => Err(error),
        };
        let wanted = "hydration_threshold 5".to_owned();
        assert_eq!(message(&["hydration_threshold", "5"]), Ok(wanted.clone()));
        assert_eq!(message(&["0", "hydration_threshold", "5"]), Ok(wanted.clone()));
        assert_eq!(message(&["hydration_threshold 5"]), Ok(wanted));
        for wrong in [&["8", "enable_hydration"][..], &["0"], &[]] {
            assert!(message(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_clone_is_created_from_a_line_from_its_words_or_from_options() {
        let line = |words: &[&str]| match asked(&[&["create"], words].concat()) {
            Ok(Verb::Create { line }) => Ok(line),
            Ok(_) => Err("another verb".into()),
            Err(error) => Err(error),
        };
        let here = std::env::current_dir().unwrap();
        let line =
            |words: &[&str]| line(words).map(|line| line.replace(here.to_str().unwrap(), "HERE"));
        let told = "a HERE/s /d HERE/m region_size=8";
        assert_eq!(line(&["a s /d m region_size=8"]), Ok(told.into()));
        assert_eq!(line(&["a", "s", "/d", "m", "region_size=8"]), Ok(told.into()));
        let named =
            ["--name", "a", "--source", "nbd://s", "--metadata", "/m", "--destination", "/d"];
        assert_eq!(line(&named), Ok("a nbd://s /d /m".into()));
        assert_eq!(line(&[&named[..], &["-o", "x,y"]].concat()), Ok("a nbd://s /d /m x,y".into()));
        let wrong: [&[&str]; 6] = [
            &[],
            &["a", "s"],
            &named[..4],
            &["a", "s", "d", "#"],
            &["a", "s", "d", ""],
            &["a", "b c", "d", "e"],
        ];
        for wrong in wrong {
            assert!(line(wrong).is_err(), "{wrong:?}");
        }
        assert!(line(&[&named[..], &["b s d m"]].concat()).is_err());
    }

    #[test]
    fn dmsetups_words_are_taken() {
        let parsed = |line: &[&str]| {
            ClonectlArgs::try_parse_from([&["clonectl"], line].concat()).map(|args| args.verb)
        };
        assert!(matches!(
            parsed(&["status", "--noflush", "disk"]),
            Ok(Args::Status { name: Some(_), noflush: true, json: false })
        ));
        assert!(matches!(parsed(&["wait", "disk"]), Ok(Args::Wait { event_nr: 0, .. })));
        assert!(matches!(parsed(&["wait", "disk", "7"]), Ok(Args::Wait { event_nr: 7, .. })));
        assert!(parsed(&["wait", "disk", "x"]).is_err());
    }
}
