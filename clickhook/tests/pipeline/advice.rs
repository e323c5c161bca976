//! The commands that errors name: they are pasted into a shell as they stand.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{BINARY, eventually, folder, http};

/// Runs a role that cannot start, and returns what it says.
fn refusal(role: &str, config: &Path) -> String {
    let output = Command::new(BINARY).arg(role).arg("--config").arg(config).stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "{role} has started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Pastes the command that `text` names into a shell.
fn paste(text: &str) -> String {
    let command = text.split('`').find(|quoted| quoted.contains("clickhook ")).expect("a command is named");
    let folder = Path::new(BINARY).parent().unwrap().display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh").args(["-c", command]).env("PATH", path).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    command.to_owned()
}

#[test]
fn commands_that_errors_name_can_be_pasted_into_a_shell_and_mend_it() {
    let (_keep, dir) = folder();
    let config = dir.join("click hook's.toml");
    let metrics = testbed::free_address();
    let write = |partitions: u16| {
        let text = format!(
            "[kafka]\nbrokers = \"{}\"\nprefix = \"{}\"\npartitions = {partitions}\n\
             [clickhouse]\nurl = \"{}\"\ndatabase = \"{}\"\n[metrics]\nlisten = \"{metrics}\"\n",
            testbed::kafka(),
            dir.file_name().unwrap().display().to_string().replace('.', "t"),
            testbed::clickhouse(),
            testbed::unique("t"),
        );
        fs::write(&config, text).unwrap();
    };
    write(4);
    assert!(paste(&refusal("enricher", &config)).contains("clickhook migrate"));
    write(6);
    assert!(paste(&refusal("enricher", &config)).contains("clickhook partitions widen --to 6"));
    // Now it starts, also under the old number.
    for partitions in [6, 4] {
        write(partitions);
        let mut enricher = Command::new(BINARY)
            .args(["enricher", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ready = || http().get(format!("http://{metrics}/readyz")).call().is_ok_and(|answer| answer.status() == 200);
        eventually("the enricher is ready", Duration::from_secs(60), || ready().then_some(()));
        enricher.kill().unwrap();
        enricher.wait().unwrap();
    }
}
