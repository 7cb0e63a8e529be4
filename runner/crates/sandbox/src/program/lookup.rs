//! Finds the file of a program as the system does when it starts one, and says why there is none.
//!
//! A name without `/` is looked up on the `PATH` of the program's own environment (execvp(3)). Deliberately absent: whether the plan
//! grants it.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::file_format::FileFormat;

/// The other folders where programs usually are, for hints.
const USUAL_FOLDERS: &[&str] = &["/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The longest first line that the kernel reads, in bytes.
const MAX_SHEBANG_BYTES: u64 = 256;

/// Why a program can't be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramFault {
    /// No folder of the `PATH` has it.
    NotOnPath { search_path: String },
    /// The file is not there.
    Missing,
    /// It is a directory.
    Directory,
    /// It may not be executed.
    NotExecutable { path: PathBuf },
    /// Its first line names an interpreter that can't be started.
    Interpreter { path: PathBuf, interpreter: String, fault: Box<ProgramFault> },
    /// Its first line ends in a carriage return, which the kernel takes for a part of the name.
    CarriageReturn { path: PathBuf },
    /// The system can't run what is in the file.
    Format { path: PathBuf, format: FileFormat },
}

impl fmt::Display for ProgramFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnPath { search_path } if search_path.is_empty() => {
                f.write_str("it is not in any folder on the step's PATH")
            }
            Self::NotOnPath { search_path } => write!(f, "it is not in any folder on the step's PATH, {search_path}"),
            Self::Missing => f.write_str("there is no such file"),
            Self::Directory => f.write_str("it is a directory"),
            Self::NotExecutable { .. } => f.write_str("it is not executable"),
            Self::Interpreter { interpreter, fault, .. } => {
                write!(f, "its first line names `{interpreter}`, and {fault}")
            }
            Self::CarriageReturn { .. } => f.write_str("its first line ends in a carriage return, as on Windows"),
            Self::Format { format, .. } => f.write_str(match format {
                FileFormat::Empty => "the file is empty",
                FileFormat::ByteOrderMark => "it begins with a byte order mark, so its first line is not a `#!` line",
                FileFormat::OtherMachine => "it is an executable for another kind of machine",
                FileFormat::Unknown => "it is neither an executable for this system nor a script",
            }),
        }
    }
}

impl ProgramFault {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self, program: &str) -> String {
        match self {
            Self::NotOnPath { .. } => match usual_path(program) {
                Some(path) => format!("write its full path, `{}`, wherever the plan names it", path.display()),
                None => "install it, or write its full path wherever the plan names it".to_owned(),
            },
            Self::Missing => "install it, or correct the path".to_owned(),
            Self::Directory => "name a program in it".to_owned(),
            Self::NotExecutable { path } => format!("run `chmod +x {}`", path.display()),
            Self::Interpreter { interpreter, fault, .. } => match &**fault {
                Self::NotExecutable { .. } => fault.hint(interpreter),
                Self::NotOnPath { .. }
                | Self::Missing
                | Self::Directory
                | Self::Interpreter { .. }
                | Self::CarriageReturn { .. }
                | Self::Format { .. } => format!("install `{interpreter}`, or correct the first line"),
            },
            Self::CarriageReturn { path } => format!("run `sed -i 's/\\r$//' {}`", path.display()),
            Self::Format { path, format } => match format {
                FileFormat::Empty => "write the program, or correct the path".to_owned(),
                FileFormat::ByteOrderMark => format!("run `sed -i '1s/^\\xEF\\xBB\\xBF//' {}`", path.display()),
                FileFormat::OtherMachine => {
                    "install a build for this system; `file` shows what it was built for".to_owned()
                }
                FileFormat::Unknown => "begin a script with a line such as `#!/bin/sh`".to_owned(),
            },
        }
    }
}

/// The file that starting a program executes.
///
/// # Errors
/// Why it can't be started. A relative path is not looked at: it depends on the working directory.
pub fn find_program(program: &str, search_path: &str) -> Result<PathBuf, ProgramFault> {
    let path = if program.contains('/') { PathBuf::from(program) } else { find_on_path(program, search_path)? };
    if path.is_relative() {
        return Ok(path);
    }
    check_file(&path, search_path)?;
    Ok(path)
}

/// The first executable file on the path; if there is none, the first file that is not executable.
fn find_on_path(program: &str, search_path: &str) -> Result<PathBuf, ProgramFault> {
    let candidates = || search_path.split(':').map(|folder| Path::new(folder).join(program));
    let files = || candidates().filter(|path| path.is_file());
    let found = files().find(|path| is_executable(path)).or_else(|| files().next());
    found.ok_or_else(|| ProgramFault::NotOnPath { search_path: search_path.to_owned() })
}

fn is_executable(path: &Path) -> bool {
    access(path, Access::EXEC_OK).is_ok()
}

fn check_file(path: &Path, search_path: &str) -> Result<(), ProgramFault> {
    match path.metadata() {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(ProgramFault::Missing);
        }
        // Whoever can't look can't tell.
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => return Err(ProgramFault::Directory),
        Ok(_) => {}
    }
    if !is_executable(path) {
        return Err(ProgramFault::NotExecutable { path: path.to_owned() });
    }
    let Ok(start) = read_start(path) else { return Ok(()) };
    if let Some(format) = FileFormat::unusable(&start) {
        return Err(ProgramFault::Format { path: path.to_owned(), format });
    }
    let Some(shebang) = Shebang::parse(&start) else { return Ok(()) };
    if shebang.line.ends_with('\r') {
        return Err(ProgramFault::CarriageReturn { path: path.to_owned() });
    }
    let fault = |interpreter: &str, fault| ProgramFault::Interpreter {
        path: path.to_owned(),
        interpreter: interpreter.to_owned(),
        fault: Box::new(fault),
    };
    let interpreter = shebang.interpreter();
    // An interpreter may be a script too; the kernel follows a few.
    check_interpreter(interpreter).map_err(|it| fault(interpreter, it))?;
    match shebang.program_of_env() {
        Some(program) => find_on_path(program, search_path).map(drop).map_err(|it| fault(program, it)),
        None => Ok(()),
    }
}

fn check_interpreter(interpreter: &str) -> Result<(), ProgramFault> {
    let path = Path::new(interpreter);
    match path.metadata() {
        _ if path.is_relative() => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ProgramFault::Missing),
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_dir() => Err(ProgramFault::Directory),
        Ok(_) if !is_executable(path) => Err(ProgramFault::NotExecutable { path: path.to_owned() }),
        Ok(_) => Ok(()),
    }
}

fn read_start(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(MAX_SHEBANG_BYTES).read_to_end(&mut start)?;
    Ok(start)
}

/// The first line of a script, after `#!`.
struct Shebang {
    line: String,
}

impl Shebang {
    fn parse(start: &[u8]) -> Option<Self> {
        let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(line).ok()?.trim_matches([' ', '\t']).to_owned();
        (!line.is_empty()).then_some(Self { line })
    }

    fn interpreter(&self) -> &str {
        self.line.split([' ', '\t']).next().unwrap_or_default()
    }

    /// The program that `/usr/bin/env` looks up; none if it gets options.
    fn program_of_env(&self) -> Option<&str> {
        let (interpreter, argument) = self.line.split_once([' ', '\t'])?;
        let argument = argument.trim_start();
        let is_name = !argument.starts_with('-') && !argument.contains([' ', '\t', '=', '/']);
        (interpreter.ends_with("/env") && is_name).then_some(argument)
    }
}

/// The path of a program that is not on the step's `PATH`, but in a folder where programs usually are.
#[must_use]
pub fn usual_path(program: &str) -> Option<PathBuf> {
    USUAL_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file() && is_executable(path))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// A folder with a file, and why it can't be started.
    fn fault_of(content: &str, mode: u32) -> (tempfile::TempDir, Option<ProgramFault>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deploy.sh");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let fault = find_program(path.to_str().unwrap(), plan::DEFAULT_PROGRAM_PATH).err();
        (folder, fault)
    }

    fn interpreter_fault(content: &str) -> (String, ProgramFault) {
        match fault_of(content, 0o755).1 {
            Some(ProgramFault::Interpreter { interpreter, fault, .. }) => (interpreter, *fault),
            other => panic!("{content}: {other:?}"),
        }
    }

    #[test]
    fn programs_that_start_have_a_file() {
        assert_eq!(find_program("/bin/sh", "/nowhere"), Ok("/bin/sh".into()));
        assert_eq!(find_program("sh", "/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(find_program("bin/x", "/nowhere"), Ok("bin/x".into()));
        for script in ["#!/bin/sh\n", "#! /bin/sh -e\n", "#!/usr/bin/env sh\n", "#!/usr/bin/env -S sh -e\n"] {
            assert_eq!(fault_of(script, 0o755).1, None, "{script}");
        }
    }

    #[test]
    fn each_cause_is_told_apart() {
        let on_path = ProgramFault::NotOnPath { search_path: "/nowhere".into() };
        assert_eq!(find_program("sh", "/nowhere"), Err(on_path.clone()));
        assert!(on_path.hint("sh").contains("bin/sh`"), "{}", on_path.hint("sh"));
        assert!(on_path.hint("no-such-program").starts_with("install it"));
        assert_eq!(find_program("/bin/no-such-program", ""), Err(ProgramFault::Missing));
        assert_eq!(find_program("/bin/sh/x", ""), Err(ProgramFault::Missing));
        assert_eq!(find_program("/usr", ""), Err(ProgramFault::Directory));
        let (folder, fault) = fault_of("#!/bin/sh\n", 0o644);
        let path = folder.path().join("deploy.sh");
        assert_eq!(fault, Some(ProgramFault::NotExecutable { path: path.clone() }));
        let (folder, fault) = fault_of("#!/bin/sh\r\n", 0o755);
        assert_eq!(fault, Some(ProgramFault::CarriageReturn { path: folder.path().join("deploy.sh") }));
        for (content, expected) in [
            ("", FileFormat::Empty),
            ("\u{feff}#!/bin/sh\n", FileFormat::ByteOrderMark),
            ("echo hi\n", FileFormat::Unknown),
        ] {
            let (folder, fault) = fault_of(content, 0o755);
            let path = folder.path().join("deploy.sh");
            assert_eq!(fault, Some(ProgramFault::Format { path, format: expected }), "{content:?}");
        }
        assert_eq!(interpreter_fault("#!/bin/bsh -e\n"), ("/bin/bsh".to_owned(), ProgramFault::Missing));
        assert_eq!(interpreter_fault("#!/usr\n"), ("/usr".to_owned(), ProgramFault::Directory));
        let (interpreter, fault) = interpreter_fault("#!/usr/bin/env no-such-program\n");
        assert_eq!(interpreter, "no-such-program");
        assert!(matches!(fault, ProgramFault::NotOnPath { .. }), "{fault:?}");
    }
}
