//! The code that the ClickHouse child itself runs. This is the one place with `unsafe`:
//! it calls into a C++ library.

use std::ffi::{CString, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

use crate::Error;

/// Opens the HTTP server, then reads standard input to its end: our parent
/// holds the other side, so this process ends with it, however it ends.
const QUERY: &str = "SYSTEM START LISTEN HTTP; SELECT count() FROM file('-', 'LineAsString', 'l String')";

/// The parent's instructions to the child, passed on its command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) lib: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) http_port: u16,
}

impl Arguments {
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let port = self.http_port.to_string();
        let args: [&std::ffi::OsStr; 8] = [
            "--lib".as_ref(),
            self.lib.as_ref(),
            "--config".as_ref(),
            self.config.as_ref(),
            "--path".as_ref(),
            self.path.as_ref(),
            "--http-port".as_ref(),
            port.as_ref(),
        ];
        args.into_iter().map(Into::into).collect()
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let (mut lib, mut config, mut path, mut http_port) = (None, None, None, None);
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args.next();
            match name.to_str() {
                Some("--lib") => lib = value,
                Some("--config") => config = value,
                Some("--path") => path = value,
                Some("--http-port") => http_port = value.and_then(|port| port.to_str()?.parse().ok()),
                _ => return Err(Error::ChildArguments(format!("unknown argument {}", name.display()))),
            }
        }
        let missing = |name: &str| Error::ChildArguments(format!("{name} is missing or makes no sense"));
        Ok(Self {
            lib: lib.ok_or_else(|| missing("--lib"))?.into(),
            config: config.ok_or_else(|| missing("--config"))?.into(),
            path: path.ok_or_else(|| missing("--path"))?.into(),
            http_port: http_port.ok_or_else(|| missing("--http-port"))?,
        })
    }

    /// The command line that ClickHouse sees.
    fn for_clickhouse(self) -> Vec<CString> {
        let option = |name: &str, value: PathBuf| [name.as_bytes(), &value.into_os_string().into_vec()].concat();
        let args = [
            b"clickhouse".to_vec(),
            option("--config-file=", self.config),
            option("--path=", self.path),
            format!("--http_port={}", self.http_port).into_bytes(),
            b"--listen_host=127.0.0.1".to_vec(),
            format!("--query={QUERY}").into_bytes(),
        ];
        // None contains a zero byte: they come from this process's own arguments.
        args.into_iter().filter_map(|arg| CString::new(arg).ok()).collect()
    }
}

/// Becomes ClickHouse: serves until standard input closes, then returns its
/// exit code. `args` are those that [`crate::Engines`] puts after
/// [`crate::Options::clickhouse_args_prefix`]. Call it first thing in `main`,
/// before any thread is started: the library installs its own signal handlers.
///
/// # Errors
/// When the arguments are not those, or the library cannot be loaded.
#[allow(unsafe_code)]
pub fn run_child(args: impl IntoIterator<Item = OsString>) -> Result<i32, Error> {
    type QueryCmdline = unsafe extern "C" fn(c_int, *mut *mut c_char) -> c_int;
    let arguments = Arguments::parse(args)?;
    let lib = arguments.lib.clone();
    let library_error = |source| Error::Library { lib: lib.clone(), source };

    // SAFETY: loading runs the library's initialisers. `make engines` checked it
    // against a pinned checksum, and it is made to be loaded into other programs.
    let library = unsafe { Library::open(Some(&lib), RTLD_NOW | RTLD_LOCAL) }.map_err(library_error)?;
    // SAFETY: at the pinned version this is `int chdb_query_cmdline(int, char **)`.
    let query_cmdline: Symbol<QueryCmdline> = unsafe { library.get("chdb_query_cmdline") }.map_err(library_error)?;

    // As for a C main: writable strings and a null at the end, which live until
    // the process ends, for the server's threads may still look at them.
    let mut argv: Vec<*mut c_char> = arguments.for_clickhouse().into_iter().map(CString::into_raw).collect();
    let argc = c_int::try_from(argv.len()).unwrap_or_default();
    argv.push(std::ptr::null_mut());
    let argv = argv.leak();
    // SAFETY: argv holds argc pointers to nul-terminated strings and a null, all
    // valid for ever and used by nobody else.
    let code = unsafe { query_cmdline(argc, argv.as_mut_ptr()) };
    // Its threads may still run in it: never unload.
    std::mem::forget(library);
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_reads_what_the_parent_writes() {
        let arguments = || Arguments { lib: "/l".into(), config: "/c d".into(), path: "/p".into(), http_port: 8123 };
        assert_eq!(Arguments::parse(arguments().to_args()).unwrap(), arguments());
        assert!(Arguments::parse(["--lib".into()]).is_err());
        let seen: Vec<String> =
            arguments().for_clickhouse().into_iter().map(|arg| arg.into_string().unwrap()).collect();
        assert_eq!(seen[..4], ["clickhouse", "--config-file=/c d", "--path=/p", "--http_port=8123"]);
    }
}
