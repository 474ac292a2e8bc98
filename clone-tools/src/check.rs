//! `clone_check`: checks whether metadata is sound, and frees leaked blocks with `--auto-repair`.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clone_core::metadata::auto_repair::{Repaired, auto_repair};
use clone_core::metadata::check::{Report, Scope, check};
use clone_core::metadata::damage::{Damage, Severity};
use clone_core::metadata::live::check_live;
use clone_core::metadata::superblock::SuperblockError;

use self::args::CheckArgs;
use crate::common::exit::{Exit, Tool};
use crate::common::metadata_input::{open_metadata, open_metadata_to_change};
use crate::common::output;
use crate::common::reporter::{Reporter, Verbosity, count};
use crate::common::units::{Counted, Share};
use crate::formats::text::write_sizes;

pub mod args;
mod json;

/// Runs `clone_check`.
///
/// # Errors
/// The metadata cannot be opened or read, or the requested repair fails. Damage is not an error: it
/// decides the exit code.
pub fn run(tool: &Tool, args: &CheckArgs) -> Result<Exit> {
    let verbosity = Verbosity::of(args.quiet, args.verbose);
    let reporter = Reporter { tool, input: &args.input, verbosity, silent: args.json };
    let (report, repaired) = check_and_repair(&reporter, args)?;
    // The findings are reported even if the repair failed.
    let (repaired, failure) = match repaired.transpose() {
        Ok(repaired) => (repaired, None),
        Err(error) => (None, Some(error)),
    };
    let exit = match failure {
        Some(_) => Exit::Failure,
        None => exit_of(&report, args),
    };
    if args.json {
        let ok = exit == Exit::Success;
        output::say(|to| json::write(to, &report, repaired.as_ref(), ok))?;
    } else {
        let advice = if failure.is_none() { advice(&report, args) } else { None };
        report_to_people(&reporter, &report, exit, advice)?;
        if let Some(repaired) = repaired.filter(|_| !reporter.is_quiet()) {
            output::say(|to| write_repaired(to, &repaired))?;
        }
    }
    failure.map_or(Ok(exit), Err)
}

/// Reports the findings to people.
fn report_to_people(
    reporter: &Reporter<'_>,
    report: &Report,
    exit: Exit,
    advice: Option<String>,
) -> Result<()> {
    if exit != Exit::Success || !reporter.is_quiet() {
        reporter.list_damage(&report.damage);
        if let Some(advice) = advice {
            reporter.say(advice);
        }
    }
    if !reporter.is_quiet() && exit != Exit::Failure {
        output::say(|to| write_summary(to, report))?;
    }
    Ok(())
}

/// Checks, and repairs if requested. After a repair the report describes the remaining problems;
/// after a failed repair, the original ones.
fn check_and_repair(
    reporter: &Reporter<'_>,
    args: &CheckArgs,
) -> Result<(Report, Option<Result<Repaired>>)> {
    if !args.auto_repair {
        let device = open_metadata(&args.input, args.live)?;
        let report = reporter.with_bar("checking", |bar| {
            if args.live {
                check_live(&device, scope(args), bar)
            } else {
                Ok(check(&device, scope(args), bar))
            }
        });
        let report =
            report.with_context(|| format!("cannot check {} live", args.input.display()))?;
        return Ok((report, None));
    }
    let device = open_metadata_to_change(&args.input)?;
    let check_all = || reporter.with_bar("checking", |bar| check(&device, Scope::Everything, bar));
    let report = check_all();
    if !report.is_repairable_in_place() {
        return Ok((report, None));
    }
    let repaired = auto_repair(&device, &report)
        .with_context(|| format!("cannot repair {}", args.input.display()));
    let changed = repaired.as_ref().is_ok_and(|repaired| *repaired != Repaired::default());
    let report = if changed { check_all() } else { report };
    Ok((report, Some(repaired)))
}

fn scope(args: &CheckArgs) -> Scope {
    if args.super_block_only {
        Scope::Superblock
    } else if args.skip_space_map {
        Scope::WithoutSpaceMap
    } else {
        Scope::Everything
    }
}

fn exit_of(report: &Report, args: &CheckArgs) -> Exit {
    if report.is_fatal() {
        Exit::Failure
    } else if report.damage.is_empty() || args.ignore_non_fatal_errors || args.auto_repair {
        Exit::Success
    } else {
        Exit::NonFatal
    }
}

/// Returns the meaning of the damage and what to do about it.
fn advice(report: &Report, args: &CheckArgs) -> Option<String> {
    let problems = |severity| Counted(count(&report.damage, severity) as u64, "problem");
    let input = args.input.display();
    if report.is_fatal() {
        let fatal = Counted(count(&report.damage, Severity::Fatal) as u64, "fatal problem");
        let way_out = match report.damage.first() {
            Some(Damage::Superblock(error)) if !can_be_repaired(error) => String::new(),
            Some(Damage::Superblock(_)) => format!(
                ". If a clone has used it, clone_repair -i {input} -o NEW recovers what is left, \
                 and says which sizes it needs"
            ),
            _ => format!(
                ". clone_repair -i {input} -o NEW writes whole metadata with everything that can \
                 be recovered"
            ),
        };
        return Some(format!("damaged: {fatal}; do not give it to the kernel{way_out}"));
    }
    match report.worst()? {
        Severity::Fatal => None,
        Severity::Leak => Some(format!(
            "sound but untidy: {}, none of which does harm. clone_check --auto-repair {input} \
             frees leaked blocks while no clone is using it",
            Counted(report.damage.len() as u64, "problem")
        )),
        Severity::Warning => {
            Some(format!("sound but odd: {}, none of which does harm", problems(Severity::Warning)))
        }
    }
}

/// True if metadata may still exist behind an unusable superblock.
fn can_be_repaired(error: &SuperblockError) -> bool {
    !matches!(error, SuperblockError::NoRoom | SuperblockError::Version { .. })
}

fn write_summary(to: &mut dyn Write, report: &Report) -> io::Result<()> {
    let Some(header) = report.header() else { return Ok(()) };
    let nr_regions = header.geometry.nr_regions();
    write_sizes(to, &header)?;
    match report.hydrated {
        Some(hydrated) => writeln!(
            to,
            "hydrated:     {hydrated} of {nr_regions} regions ({})",
            Share { part: hydrated, whole: nr_regions }
        )?,
        None => writeln!(to, "regions:      {nr_regions}")?,
    }
    if let Some(blocks) = &report.metadata_blocks {
        write!(
            to,
            "metadata:     {} of {} blocks of 4 KiB used ({})",
            blocks.used,
            blocks.total,
            Share { part: blocks.used, whole: blocks.total }
        )?;
        match blocks.leaked {
            Some(leaked) => writeln!(to, ", {leaked} leaked")?,
            None => writeln!(to)?,
        }
    }
    Ok(())
}

fn write_repaired(to: &mut dyn Write, repaired: &Repaired) -> io::Result<()> {
    writeln!(
        to,
        "repaired:     {} freed, {} corrected",
        Counted(repaired.leaked_blocks, "leaked block"),
        Counted(repaired.figures, "figure")
    )
}
