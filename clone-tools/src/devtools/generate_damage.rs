//! `clone_generate_damage`: damages one block of metadata.

use anyhow::{Context, Result};
use clap::ValueEnum;
use clone_core::generate::damage::damage;

use super::args::GenerateDamageArgs;
use crate::common::exit::{Exit, Tool};
use crate::common::metadata_input::open_metadata_to_change;
use crate::common::output;

/// Runs `clone_generate_damage`.
///
/// # Errors
/// The metadata cannot be opened or written, or the block cannot be found. Nothing is damaged then.
pub fn run(tool: &Tool, args: &GenerateDamageArgs) -> Result<Exit> {
    let name = args.input.display();
    let device = open_metadata_to_change(&args.input)?;
    let change = damage(&device, args.block, args.damage.into(), args.seed)
        .with_context(|| name.to_string())?;
    if !args.quiet {
        output::say(|to| writeln!(to, "{change}"))?;
    }
    if args.verbose {
        let what = args.damage.to_possible_value();
        tool.say(format_args!(
            "again: -i {name} --block {}:{} --damage {} --seed {}",
            change.role,
            change.ordinal,
            what.as_ref().map_or("", |what| what.get_name()),
            args.seed
        ));
    }
    Ok(Exit::Success)
}
