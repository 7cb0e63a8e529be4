//! Starts the agent of a host over ssh, and puts the runner's binary there first if it is missing.
//!
//! ssh's own configuration, agents, jump hosts, certificates and known hosts count; the options here only keep it from asking questions and
//! from sharing anything. The remote command is one line without `'` and `!`, so that every login shell passes it on unchanged. The binary
//! is kept under its digest, so it is sent once, and both ends are always the same build.

use std::{
    io,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use contract::diagnostic::{Diagnostic, ErrorCode};
use plan::{HostAddress, PlanHost, SshOptions};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use super::{
    AgentConnection, ConnectionError,
    agent_binary::{AgentBinaries, AgentBinary, GlibcVersion, Unpacker, own_arch},
    dial_error::{DialError, explain, no_agent, other_architecture, unusable},
    plain_text,
};
use crate::agent::{self, wire::AGENT_MARK};

/// How long it may take until the agent says hello, without the time to send the binary.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time to send the binary, and how long the host may take none of it.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);
const UPLOAD_SILENCE: Duration = Duration::from_secs(60);
/// How much of the binary is sent at once, in bytes.
const UPLOAD_PIECE_BYTES: usize = 256 << 10;
/// What a login shell may print before the agent begins, in bytes.
pub(super) const MAX_NOISE_BYTES: usize = 64 << 10;
/// What of ssh's errors is shown, in bytes.
const MAX_STDERR_BYTES: usize = 8 << 10;

pub(super) const HERE_MARK: &str = "PAWL-HERE";
const NEED_MARK: &str = "PAWL-NEED";
const SEND_MARK: &str = "PAWL-SEND";
const FAIL_MARK: &str = "PAWL-FAIL";

/// The options of every connection: no question, nothing shared.
const OPTIONS: [&str; 9] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "RemoteCommand=none",
    "ConnectTimeout=10",
    "RequestTTY=no",
];

/// What runs on the host: finds a folder where programs can run and that has room, and becomes the agent there. `$1` is the digest of the
/// binary for this machine's architecture, `$2` its loader, `$3` its size in KiB. If it is missing, a line with the digest and the size of the
/// right one comes first, then that binary, unless it is there. What the agent keeps is for its user alone; what the steps make has the modes that
/// the user's umask gives, as on this machine.
const SCRIPT: &str = concat!(
    "printf \"\\nPAWL-HERE\\n\"; u=$(umask); umask 077; a=; f=; e=; for b in \"$XDG_CACHE_HOME\" \"$HOME/.cache\" \"$XDG_RUNTIME_DIR\" /var/tmp; do ",
    "case \"$b\" in /*) ;; *) continue ;; esac; p=\"$b/pawl\"; ",
    "if [ \"$b\" = /var/tmp ]; then p=\"/var/tmp/pawl-$(id -u)\"; fi; ",
    "mkdir -p \"$p\" 2>/dev/null || continue; if [ -L \"$p\" ]; then continue; fi; [ -O \"$p\" ] || continue; ",
    "if [ -x \"$p/agent-$1\" ]; then a=\"$p/agent-$1\"; break; fi; ",
    "k=$(df -Pk \"$p\" 2>/dev/null | tail -n 1 | (read -r x y z k w; printf %s \"$k\")); ",
    "if [ \"$k\" -lt \"$3\" ] 2>/dev/null; then f=\"$p\"; continue; fi; ",
    "t=\"$p/.test-$$\"; printf \"#\\041/bin/sh\\nexit 7\\n\" 2>/dev/null >\"$t\" || continue; chmod 700 \"$t\"; ",
    "\"$t\" 2>/dev/null; r=$?; rm -f \"$t\"; if [ $r = 7 ]; then a=\"$p/agent-$1\"; break; fi; e=\"${e:+$e, }$p\"; done; ",
    "if [ -z \"$a\" ]; then if [ -n \"$f\" ]; then f=\"room $f\"; else f=\"folder $e\"; fi; printf \"\\nPAWL-FAIL %s\\n\" \"$f\"; exit 1; fi; ",
    "if [ -x \"$a\" ]; then umask $u; exec \"$a\" agent; fi; ",
    "m=cat; for b in gzip zstd; do if command -v $b >/dev/null 2>&1; then m=\"$b -dc\"; fi; done; ",
    "c=unknown; if b=$(getconf GNU_LIBC_VERSION 2>/dev/null); then c=\"${b##* }\"; fi; ",
    "if [ \"$2\" = - ] || [ -e \"$2\" ]; then :; else c=none; fi; ",
    "printf \"\\nPAWL-NEED %s %s %s\\n\" \"$(uname -m)\" \"${m%% *}\" \"$c\"; read -r d n; ",
    "a=\"$p/agent-$d\"; if [ -x \"$a\" ]; then umask $u; exec \"$a\" agent; fi; printf \"\\nPAWL-SEND\\n\"; ",
    "t=\"$a.tmp-$$\"; head -c \"$n\" | $m >\"$t\" && if [ \"$m\" = cat ]; then [ \"$(wc -c <\"$t\")\" -eq \"$n\" ]; fi && chmod 700 \"$t\" && mv \"$t\" \"$a\" && umask $u && exec \"$a\" agent; ",
    "rm -f \"$t\"; printf \"\\nPAWL-FAIL upload %s\\n\" \"$p\"; exit 1"
);

/// A command that runs on a host.
pub(super) struct HostCommand {
    pub(super) child: Child,
    pub(super) stdin: ChildStdin,
    pub(super) stdout: BufReader<ChildStdout>,
    pub(super) stderr: SshErrors,
}

/// Runs a script on a host, as the user of `sudo`. `words` are its arguments after the digest of the binary, and have no `'`.
pub(super) fn run_script(
    host: &PlanHost,
    options: &SshOptions,
    binary: &AgentBinary,
    script: &str,
    words: &str,
) -> Result<HostCommand, Diagnostic> {
    let HostAddress::Ssh { user, host: name, port } = &host.address else {
        return Err(Diagnostic::new(ErrorCode::RunnerFault, "a host of this machine is not reached by ssh"));
    };
    // Its messages are read in English. The folder of the user that logs in may be closed to the other one.
    let (sudo, enter) = match &options.sudo {
        Some(user) => (format!("env LC_ALL=C sudo -n -H -u {user} -- "), "cd \"$HOME\" 2>/dev/null || cd /; "),
        None => (String::new(), ""),
    };
    let mut command = Command::new("ssh");
    let secrets = options.withheld_variables.iter().map(String::as_str);
    for name in secrets.chain(state::JOB_SECRET_VARIABLES).chain([state::ID_TOKEN_VARIABLE]) {
        command.env_remove(name);
    }
    command.arg("-T");
    for option in OPTIONS {
        command.args(["-o", option]);
    }
    if let Some(config) = &options.config {
        command.arg("-F").arg(config);
    }
    if let Some(file) = &options.known_hosts {
        command.arg("-o").arg(format!("UserKnownHostsFile={}", file.display()));
    }
    if let Some(user) = user {
        command.args(["-l", user]);
    }
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["--", name]);
    command.arg(format!("exec {sudo}/bin/sh -c '{enter}{script}' pawl {} {words}", file_digest(binary)));
    // In a process group of its own: Ctrl-C is the coordinator's to handle.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        let hint = "install an OpenSSH client, so that `ssh` is on the `PATH`";
        Diagnostic::new(ErrorCode::HostUnreachable, format!("can't start `ssh` for host `{}`", host.name))
            .with_cause(error)
            .with_hint(hint)
    })?;
    let streams = child.stdin.take().zip(child.stdout.take()).zip(child.stderr.take());
    let ((stdin, stdout), stderr) = streams.expect("the three streams are pipes");
    Ok(HostCommand { child, stdin, stdout: BufReader::new(stdout), stderr: SshErrors::read(stderr) })
}

/// Connects to a host, and starts its agent. Tells when somebody has logged in, and when the binary is sent.
///
/// # Errors
/// The host can't be reached, or can't run the agent: what happened, and what helps.
pub(super) async fn reach(
    host: &PlanHost,
    options: &SshOptions,
    binaries: &AgentBinaries,
    tell_login: &dyn Fn(),
    tell_upload: &dyn Fn(usize),
) -> Result<AgentConnection, DialError> {
    let binary = binaries.own().map_err(|error| unreadable(&error))?;
    let is_plain = |loader: &&str| loader.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let loader = binary.facts.loader.as_deref().filter(is_plain).unwrap_or("-");
    let words = format!("{loader} {}", binary.megabytes() * 1000);
    let HostCommand { child, stdin, stdout, stderr } = run_script(host, options, &binary, SCRIPT, &words)?;
    let error =
        match start((host, binaries, Arc::clone(&binary)), stdin, stdout, child, (tell_login, tell_upload)).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
    let diagnostic = match error {
        AgentStartError::Diagnosed(diagnostic) => *diagnostic,
        AgentStartError::Unusable { what, folder } => unusable((host, &binary), &what, &folder, &stderr.said().await),
        AgentStartError::Ended { noise, has_begun: true } => no_agent(host, &noise, &stderr.said().await),
        AgentStartError::Ended { noise, has_begun: false } => {
            return Err(explain((host, options), &noise, &stderr.said().await));
        }
    };
    Err(diagnostic.into())
}

enum AgentStartError {
    Diagnosed(Box<Diagnostic>),
    /// The script says that the host can't run the agent.
    Unusable {
        what: String,
        folder: String,
    },
    /// The connection ended before the agent began; `has_begun`: the script had.
    Ended {
        noise: String,
        has_begun: bool,
    },
}

async fn start(
    (host, binaries, mut binary): (&PlanHost, &AgentBinaries, Arc<AgentBinary>),
    mut stdin: ChildStdin,
    mut stdout: BufReader<ChildStdout>,
    child: Child,
    (tell_login, tell_upload): (&dyn Fn(), &dyn Fn(usize)),
) -> Result<AgentConnection, AgentStartError> {
    let (mut noise, mut has_begun) = (String::new(), false);
    let mut deadline = tokio::time::Instant::now() + HELLO_TIMEOUT;
    // What the host unpacks the binary with, once it has been offered.
    let (mut unpacker, mut is_sent) = (None, false);
    loop {
        let line = match tokio::time::timeout_at(deadline, next_line(&mut stdout)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None) | Err(_)) | Err(_) => return Err(AgentStartError::Ended { noise, has_begun }),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [AGENT_MARK] => break,
            [HERE_MARK] if !has_begun => {
                has_begun = true;
                tell_login();
            }
            [NEED_MARK, arch, method, libc] if unpacker.is_none() => {
                binary = binary_for(host, binaries, arch, libc).map_err(diagnosed)?;
                let method = Unpacker::parse(method);
                let packed = Arc::clone(&binary);
                let packing = tokio::task::spawn_blocking(move || packed.packed(method).map(<[u8]>::len));
                let length = packing.await.map_err(io::Error::other).and_then(|length| length);
                let length = length.map_err(|error| diagnosed(unreadable(&error)))?;
                unpacker = Some((method, length));
                // If it fails, the host says why.
                let _ = stdin.write_all(format!("{} {length}\n", file_digest(&binary)).as_bytes()).await;
                // To compress it may have taken a while here.
                deadline = tokio::time::Instant::now() + HELLO_TIMEOUT;
            }
            [SEND_MARK] if let (Some((method, length)), false) = (unpacker, is_sent) => {
                is_sent = true;
                tell_upload(length / 1_000_000);
                let packed = binary.packed(method).map_err(|error| diagnosed(unreadable(&error)))?;
                let began = tokio::time::Instant::now();
                let _ = tokio::time::timeout(UPLOAD_TIMEOUT, send_binary(&mut stdin, packed)).await;
                // On a slow link, the last pieces are still on their way.
                deadline = tokio::time::Instant::now() + HELLO_TIMEOUT + began.elapsed();
            }
            [FAIL_MARK, what, folder @ ..] => {
                return Err(AgentStartError::Unusable { what: (*what).to_owned(), folder: folder.join(" ") });
            }
            _ => {
                noise.push_str(&plain_text(&line));
                if noise.len() > MAX_NOISE_BYTES {
                    return Err(AgentStartError::Ended { noise, has_begun });
                }
            }
        }
    }
    let connection = AgentConnection::open(stdout, stdin, child).await.map_err(|error| match error {
        ConnectionError::Lost(_) | ConnectionError::Refused(_) => AgentStartError::Ended { noise, has_begun },
    })?;
    check_build(host, &binary, &connection).map_err(diagnosed)?;
    Ok(connection)
}

/// Sends the binary. If the host stops taking it, or there is no room for it, the host says so, or nothing more.
async fn send_binary(stdin: &mut ChildStdin, packed: &[u8]) {
    for piece in packed.chunks(UPLOAD_PIECE_BYTES) {
        match tokio::time::timeout(UPLOAD_SILENCE, stdin.write_all(piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = tokio::time::timeout(UPLOAD_SILENCE, stdin.flush()).await;
}

/// Refuses an agent of another build.
pub(super) fn check_build(
    host: &PlanHost,
    binary: &AgentBinary,
    connection: &AgentConnection,
) -> Result<(), Diagnostic> {
    if connection.hello.build != agent::build(&binary.facts.digest) {
        let message = format!("host `{}` has another build of the runner than this one", host.name);
        let hint = "delete `agent-…` in the folder `pawl` of the user's cache on the host, then run the command again";
        return Err(Diagnostic::new(ErrorCode::HostUnusable, message).with_hint(hint));
    }
    Ok(())
}

/// The binary for a host with this architecture and C library: its version, `none` if it has not the one that this machine's binary needs,
/// or anything else if it is not known.
fn binary_for(
    host: &PlanHost,
    binaries: &AgentBinaries,
    arch: &str,
    libc: &str,
) -> Result<Arc<AgentBinary>, Diagnostic> {
    let ours = own_arch();
    let binary = binaries.for_arch(arch).map_err(|error| unreadable(&error))?;
    let binary = binary.ok_or_else(|| other_architecture(host, arch, &ours))?;
    let Some(needed) = binary.facts.needed_glibc else { return Ok(binary) };
    let has = match GlibcVersion::parse(libc) {
        Some(version) if version < needed => format!("the host has {version}"),
        None if libc == "none" && arch == ours => "the host has another C library".to_owned(),
        Some(_) | None => return Ok(binary),
    };
    let path = AgentBinary::path(arch).map_err(|error| unreadable(&error))?;
    let hint = format!(
        "use a released binary, which needs no C library, or put one of version {} at {}",
        env!("CARGO_PKG_VERSION"),
        path.display()
    );
    Err(Diagnostic::new(ErrorCode::HostUnusable, format!("host `{}` can't run the agent", host.name))
        .with_cause(format!("this runner was built for the GNU C library {needed} or newer, and {has}"))
        .with_hint(hint))
}

/// The digest in the name of the file on the host.
fn file_digest(binary: &AgentBinary) -> String {
    binary.facts.digest.hex_prefix(32)
}

pub(super) fn unreadable(error: &io::Error) -> Diagnostic {
    Diagnostic::new(ErrorCode::RunnerFault, "can't read the runner's binary for the host").with_cause(error)
}

fn diagnosed(diagnostic: Diagnostic) -> AgentStartError {
    AgentStartError::Diagnosed(Box::new(diagnostic))
}

/// A line of the host; none at the end.
pub(super) async fn next_line(from: &mut BufReader<ChildStdout>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = from.take(MAX_NOISE_BYTES as u64).read_until(b'\n', &mut line).await?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

/// What ssh says on standard error. It is read as long as the connection lives, so that nothing waits for that.
pub(super) struct SshErrors {
    text: Arc<Mutex<Vec<u8>>>,
    reading: tokio::task::JoinHandle<()>,
}

impl SshErrors {
    fn read(mut stderr: ChildStderr) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&text);
        let reading = tokio::spawn(async move {
            let mut piece = [0; 1024];
            while let Ok(length @ 1..) = stderr.read(&mut piece).await {
                let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if kept.len() < MAX_STDERR_BYTES {
                    kept.extend_from_slice(&piece[..length]);
                }
            }
        });
        Self { text, reading }
    }

    /// All that it said, once it has ended. A connection that something else holds open does not keep that back.
    pub(super) async fn said(self) -> String {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.reading).await;
        let text = self.text.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        plain_text(String::from_utf8_lossy(&text).trim())
    }
}
