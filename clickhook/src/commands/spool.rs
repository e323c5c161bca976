//! `clickhook spool`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use bus::Bus;
use clap::{Args, Subcommand};
use schemas::Topic;
use service::{Process, Shutdown};

use crate::roles::{RoleArgs, warn_of_topics};

/// The commands of `clickhook spool`.
#[derive(Debug, Subcommand)]
pub(crate) enum SpoolSubcommand {
    /// Hand Kafka all bundles of a spool, and end. Run it where no redirector will start
    /// with that disk again; one that does replays the spool itself.
    #[command(after_help = r"Example:
  clickhook spool replay --dir /mnt/old/data/ingest --config clickhook.toml")]
    Replay(ReplayArgs),
}

/// The arguments of `clickhook spool replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    role: RoleArgs,
    /// The folder that was the redirector's `ingest.data_dir`.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Runs a command on a spool.
pub(crate) async fn run(command: SpoolSubcommand) -> anyhow::Result<()> {
    let SpoolSubcommand::Replay(ReplayArgs { role, dir }) = command;
    let config = role.load()?;
    // A folder that is mistaken must not pass for an empty spool.
    if !dir.join("spool.redb").exists() {
        bail!("{} holds no spool (spool.redb): give the folder that was ingest.data_dir", dir.display());
    }
    let shutdown = Shutdown::on_signals().context("listen for signals")?;
    let bus = Bus::new(config.kafka);
    warn_of_topics(&bus, &[Topic::ClicksRaw]).await?;
    let ingest = ingest::Config { data_dir: dir.clone(), ..config.ingest };
    let process = Process { shutdown, ..Process::default() };
    let outcome = ingest::replay_spool(ingest, bus, process).await?;
    say!("{} bundles are in Kafka", outcome.replayed);
    if outcome.left > 0 {
        bail!(
            "{} bundles are left in {}: run this again, or read the log for those that Kafka refuses",
            outcome.left,
            dir.display()
        );
    }
    Ok(())
}
