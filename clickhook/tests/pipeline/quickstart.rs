//! The README's quick start, line by line as a newcomer pastes it: `make up` in
//! one shell, the rest in another. Only the ports, the folder and the repetition
//! of what takes a moment are this test's.
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use testbed::free_address;

use crate::support::folder;

/// How long a line may take: the first may compile.
const PATIENCE: Duration = Duration::from_secs(300);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The lines of each `sh` block of the README, without comments.
fn blocks() -> Vec<Vec<String>> {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut rest = readme.as_str();
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (block, after) = after.split_once("```").unwrap();
        let lines = block.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        blocks.push(lines.map(str::to_owned).collect());
        rest = after;
    }
    blocks
}

/// A shell that is typed into.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Shell {
    fn start(env: &[(&str, String)]) -> Self {
        let mut command = Command::new("bash");
        // A newcomer's shell knows nothing of the package under test, for which
        // build scripts of some dependencies would run again, and nothing of the
        // `make test` that we run under, whose arguments `make up` would take.
        const OURS: [&str; 7] =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "MAKE", "MFLAGS", "ARGS"];
        for (name, _) in std::env::vars().filter(|(name, _)| OURS.iter().any(|ours| name.starts_with(ours))) {
            command.env_remove(name);
        }
        let mut child = command
            .current_dir(repository())
            .envs(env.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("| {line}");
                let _ = tell.send(line);
            }
        });
        Self { stdin: child.stdin.take().unwrap(), child, lines, seen: Vec::new() }
    }

    fn paste(&mut self, line: &str) {
        println!("$ {line}");
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Waits for a line that has all of `parts`.
    fn until(&mut self, parts: &[&str]) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no line with {parts:?} came; what came:\n{}", self.seen.join("\n")));
            self.seen.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// Pastes a line and waits until the shell is through with it.
    fn run(&mut self, line: &str) {
        self.paste(line);
        self.paste("echo \"done: $?\"");
        let done = self.until(&["done: "]);
        assert_eq!(done, "done: 0", "`{line}` failed");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if thread::panicking() {
            // What runs in the foreground may never end, and reads no commands.
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        }
        let _ = writeln!(self.stdin, "kill %1 2>/dev/null; exit");
        let _ = self.child.wait();
    }
}

#[test]
fn the_quick_start_works_as_pasted() {
    let (_keep, dir) = folder();
    let [redirect, intake, api, metrics, receiver]: [SocketAddr; 5] = std::array::from_fn(|_| free_address());
    let env = [
        ("CLICKHOOK_DATA_DIR", dir.join("data").display().to_string()),
        ("CLICKHOOK_KEY_FILE", dir.join("data/admin.key").display().to_string()),
        ("CLICKHOOK_REDIRECT", redirect.to_string()),
        ("CLICKHOOK_INTAKE", intake.to_string()),
        ("CLICKHOOK_API_LISTEN", api.to_string()),
        ("CLICKHOOK_API", format!("http://{api}")),
        ("CLICKHOOK_METRICS_LISTEN", metrics.to_string()),
    ];
    let adapted = |line: &str| {
        line.replace("localhost:8080", &redirect.to_string())
            .replace("127.0.0.1:9000", &receiver.to_string())
            .replace("--port 9000", &format!("--port {}", receiver.port()))
            .replace("listen.secret", &dir.join("listen.secret").display().to_string())
    };
    let blocks = blocks();
    let [up, rest] = &blocks[..] else { panic!("the README has {} sh blocks, not 2", blocks.len()) };

    let mut first = Shell::start(&env);
    for line in up {
        first.paste(&adapted(line));
    }
    first.until(&["clickhook is running"]);

    let mut second = Shell::start(&env);
    for line in rest {
        let line = adapted(line);
        if line.starts_with("clickhook stats") {
            // "within about a second": a person asks again.
            second.paste(&format!("until {line} | grep -Eq '^clicks +1$'; do :; done"));
            second.run(&line);
        } else if line.ends_with('&') {
            second.paste(&line);
            second.until(&[&receiver.port().to_string()]);
        } else if line.starts_with("curl") {
            // The redirector follows the link within milliseconds.
            second.paste(&format!("until {line} | grep 'HTTP/1.1 302'; do :; done"));
            second.until(&["HTTP/1.1 302"]);
            second.until(&["link.clicked", "verified"]);
        } else {
            second.run(&line);
        }
    }
    drop(second);
    // Ctrl-C in the first terminal.
    let up = fs::read_to_string(dir.join("data/lock")).unwrap();
    let pid = up.split_whitespace().next().unwrap();
    assert!(Command::new("kill").args(["-INT", pid]).status().unwrap().success());
    first.until(&["stopping"]);
    first.run("true");
}
