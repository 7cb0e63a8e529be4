//! The registry of error codes: each with its number, its exit kind, and the title of its page.
//!
//! Invariant: each page of docs/errors/ has one row here, with the same title. A number is never reused for another error, since
//! journals, logs and search engines contain it.

use std::fmt;

use crate::diagnostic::ExitKind;

macro_rules! error_codes {
    ($($name:ident, $number:literal, $exit:ident, $title:literal;)*) => {
        /// An error code such as `P0301`; each has a page in docs/errors/.
        ///
        /// Ranges: 01 plan, 02 usage and preflight, 03 steps, 04 in doubt, 05 lock and artifacts, 06 journal and state, 07 our
        /// bugs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = concat!($number, ": ", $title, ".")] $name,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as users see it, such as `P0301`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $number,)* }
            }

            /// The exit kind, unless a [`Diagnostic`](crate::diagnostic::Diagnostic) sets another.
            #[must_use]
            pub fn exit(self) -> ExitKind {
                match self { $(Self::$name => ExitKind::$exit,)* }
            }

            /// The title of its page.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

error_codes! {
    // The plan.
    NotYaml, "P0101", Refused, "invalid YAML";
    EmptyPlan, "P0102", Refused, "empty plan";
    PlanTooLarge, "P0103", Refused, "plan too large";
    UnknownKey, "P0104", Refused, "unknown key";
    WrongType, "P0105", Refused, "wrong type";
    MissingKey, "P0106", Refused, "missing key";
    InvalidName, "P0107", Refused, "invalid name or label";
    UndefinedLookup, "P0108", Refused, "undefined lookup";
    InvalidLookup, "P0109", Refused, "invalid lookup";
    LookupNotAllowed, "P0110", Refused, "lookup not allowed here";
    NeedsCycle, "P0111", Refused, "cycle in `needs`";
    UnknownNeed, "P0112", Refused, "unknown step in `needs`";
    UnknownEnvironment, "P0113", Refused, "environment missing or unknown";
    MissingSecret, "P0114", Refused, "secret without a value";
    InvalidGrant, "P0115", Refused, "invalid grant";
    NotSupported, "P0116", Refused, "not supported yet";
    DuplicateKey, "P0117", Refused, "duplicate key";
    InvalidValue, "P0118", Refused, "invalid value";
    UnknownModule, "P0120", Refused, "unknown module";
    InvalidConfig, "P0121", Refused, "invalid configuration";
    MissingGrant, "P0122", Refused, "missing grant";
    PrepareAfterCommit, "P0123", Refused, "prepare step after a commit step";
    NeedsTrust, "P0124", Refused, "missing `trust: host`";
    NotAModule, "P0125", Refused, "not a step module";
    ContractMismatch, "P0126", Refused, "a module is incompatible with this runner";
    ModuleNotPinned, "P0127", Refused, "a module is missing from deploy.lock";
    LockFileIo, "P0128", Refused, "deploy.lock cannot be read or written";
    ModuleUnavailable, "P0129", Refused, "a module cannot be fetched from its registry";
    PinMismatch, "P0130", Refused, "a module differs from deploy.lock";
    NotAHookStep, "P0131", Refused, "a module that hooks cannot use";
    UnknownHostGroup, "P0132", Refused, "unknown host group";
    // Usage, and checks before the first step.
    PlanUnreadable, "P0201", Refused, "the plan cannot be read";
    ResourceNotReady, "P0202", Refused, "a resource of a step is not ready";
    ReleaseDigestUnavailable, "P0203", Refused, "the release's digest cannot be determined";
    InputUnreadable, "P0204", Refused, "a step's input files cannot be read";
    UnknownStep, "P0205", Refused, "no such step in the plan";
    InvalidRelease, "P0206", Refused, "invalid release label";
    UnknownRelease, "P0207", Refused, "the release is unknown";
    LocalNotConfirmed, "P0208", Refused, "outside of CI, `--local` is required";
    InvalidStepArgument, "P0209", Refused, "invalid argument of `runner step`";
    StepNotInAttempt, "P0210", Refused, "no such step in the attempt";
    UnknownAttempt, "P0211", Refused, "no such attempt";
    NoAttempts, "P0212", Refused, "nothing was deployed here yet";
    NoJournal, "P0213", Refused, "no journal to check";
    OutputFailed, "P0214", Refused, "the output cannot be written";
    NotTheVerifiedRelease, "P0215", Refused, "the content differs from the verified release";
    EnvironmentOutOfOrder, "P0216", Refused, "not verified in the preceding environment";
    NoRollbackTarget, "P0217", Refused, "no release to roll back to";
    UserNotAllowed, "P0218", Refused, "not allowed";
    NestedDeployment, "P0219", Refused, "a deployment inside itself";
    NewStepFailed, "P0220", Refused, "the folder of a new step cannot be created";
    StaleDecision, "P0221", Refused, "another deployment ran after this one was planned";
    NotVerifiedUpstream, "P0222", Refused, "not verified in the source environment";
    PruneFailed, "P0223", Failed, "an old release cannot be removed";
    OutputsNotRecorded, "P0224", Refused, "outputs of an earlier step are not recorded for this release";
    SecretInInput, "P0225", Refused, "a secret in a value that is recorded";
    StaleCheckpoint, "P0226", InDoubt, "the journal in the artifacts is not the newest";
    OtherReleaseLive, "P0227", Refused, "the live release is not the one to import";
    NothingToImport, "P0228", Refused, "there is nothing to import";
    NotResolvable, "P0230", Refused, "a step cannot be resolved this way";
    OutputsUnknown, "P0231", Refused, "a resolved step's outputs are needed and unknown";
    LogElsewhere, "P0232", Refused, "the log is on another machine";
    ProgramUnusable, "P0233", Refused, "a program cannot be run";
    WrongProgramVersion, "P0234", Refused, "a program has the wrong version";
    SeveralPlans, "P0235", Refused, "several plans, and none is named";
    PackFailed, "P0236", Refused, "a folder cannot be packed";
    PublishFailed, "P0237", Failed, "a release cannot be published";
    PublishedDiffers, "P0238", Refused, "another content is published under this name";
    InitRefused, "P0239", Refused, "the files of a deployment cannot be written";
    SharedIdentity, "P0240", Refused, "two jobs share an identity";
    KeyChanged, "P0241", Refused, "the `key` was added or dropped";
    ForkNotAllowed, "P0242", Refused, "a fork's pull request may not deploy";
    ForgeRefused, "P0243", Refused, "a repository cannot be created on the forge";
    RepositoryUnusable, "P0244", Refused, "the repository on the forge cannot be used";
    UnverifiedInputs, "P0250", Refused, "files or steps differ from those that the release was verified with";
    HostUnreachable, "P0260", Refused, "a host cannot be reached";
    HostKeyUnknown, "P0261", Refused, "the key of a host is unknown or has changed";
    HostLoginRefused, "P0262", Refused, "a host refuses the login";
    HostUnusable, "P0263", Refused, "a host cannot run the agent";
    HostsLeftBehind, "P0264", Failed, "hosts were left behind";
    UnknownHost, "P0265", Refused, "`--limit` chooses no host";
    InventoryUnreadable, "P0266", Refused, "an inventory cannot be read";
    SudoRefused, "P0267", Refused, "a host does not let the agent work as another user";
    NotConfirmed, "P0269", Failed, "a host undid a step that was not confirmed";
    NotUndoneByHost, "P0270", Failed, "a host could not undo a step that was not confirmed";
    // Steps and migrations.
    StepFailed, "P0301", Failed, "a step failed";
    StepLost, "P0302", Failed, "a step ended without a result";
    Interrupted, "P0303", Interrupted, "interrupted";
    SecretInReceipt, "P0304", Failed, "a step returned a secret";
    ProgramRunning, "P0305", Locked, "a program of an earlier attempt is still running";
    MigrationChanged, "P0311", Failed, "an applied migration was changed";
    MigrationMissing, "P0312", Failed, "an applied migration is missing";
    DatabaseAhead, "P0313", Failed, "the database is ahead of the files";
    MigrationOutOfOrder, "P0314", Failed, "a migration is out of order";
    MigrationUnfinished, "P0315", InDoubt, "another tool left a migration unfinished";
    NewerAttemptMigrated, "P0316", Failed, "a newer attempt has migrated this database";
    MigrationLockLost, "P0317", Failed, "the migration lock was lost";
    StatementChanged, "P0318", Failed, "an applied statement was changed";
    StatementInDoubt, "P0319", InDoubt, "a statement's outcome is unknown";
    MigrationLockHeld, "P0320", Locked, "another migration holds the lock";
    DatabaseUnreachable, "P0321", Failed, "the database cannot be reached";
    TransactionPooler, "P0322", Refused, "a pooler in transaction mode";
    UnsafeMigration, "P0323", Refused, "unsafe statements in migrations";
    RehearsalFailed, "P0324", Failed, "a rehearsal failed";
    // In doubt: an operator must decide.
    Drifted, "P0401", InDoubt, "drift";
    StepInDoubt, "P0402", InDoubt, "a step's outcome is unknown";
    ProbeFailed, "P0403", InDoubt, "a probe failed";
    UndoFailed, "P0404", InDoubt, "a step could not be undone";
    Irreversible, "P0405", InDoubt, "an irreversible step prevents the rollback";
    RecordUnconfirmed, "P0406", InDoubt, "a step's record is unauthenticated or missing";
    DoneElsewhere, "P0407", InDoubt, "a step was done on another machine";
    StepStale, "P0408", InDoubt, "a check failed after a step that must not run again";
    // The lock, and the artifacts of a CI.
    LockHeld, "P0501", Locked, "another deployment holds the lock";
    LockIo, "P0502", Refused, "the deployment lock cannot be used";
    LockLost, "P0503", Locked, "the lock was lost";
    HolderRunning, "P0504", Locked, "a running deployment holds the lock";
    InvalidLockToken, "P0505", Refused, "invalid lock token";
    FinalWriteFailed, "P0506", InDoubt, "the last records were not uploaded";
    InvalidArtifactAccess, "P0510", Refused, "access to the artifact service is not set up";
    ArtifactUnauthorized, "P0511", InDoubt, "the artifact service rejects the token";
    ArtifactServiceUnavailable, "P0512", InDoubt, "the artifact service cannot be reached, or fails";
    ArtifactRefused, "P0513", InDoubt, "the artifact service refuses the request";
    ArtifactDigestMismatch, "P0514", Journal, "an artifact's digest does not match";
    ArtifactTooLarge, "P0515", InDoubt, "an artifact is too large";
    JournalNotUploaded, "P0520", InDoubt, "the journal could not be uploaded";
    PreviousJournalMissing, "P0521", InDoubt, "the journal of earlier attempts is missing";
    JournalUnauthenticated, "P0522", Journal, "no journal has a valid MAC";
    InvalidCheckpoint, "P0523", Journal, "the journal in an artifact cannot be used";
    InvalidCiVariables, "P0526", Refused, "the CI job's variables are missing or invalid";
    // Journal and state.
    JournalIo, "P0601", Failed, "the journal cannot be read or written";
    JournalCorrupt, "P0602", Journal, "the journal is corrupt";
    JournalContradiction, "P0603", Journal, "the journal contradicts itself";
    JournalFromNewerRunner, "P0604", Journal, "the journal was written by a newer runner";
    JournalFull, "P0605", Failed, "a record is too long, or the journal is full";
    StateFolderIo, "P0606", Refused, "the state folder cannot be read";
    StateUnavailable, "P0607", Refused, "the remote state cannot be reached";
    NoConditionalWrites, "P0608", Refused, "the object store ignores write conditions";
    InvalidStateManifest, "P0609", Journal, "the state's record is invalid";
    StateDiverged, "P0610", Journal, "the journals have diverged";
    BaseSnapshotUnusable, "P0611", Journal, "the snapshot before the first journal cannot be used";
    // Faults of the runner.
    RunnerFault, "P0701", Bug, "an internal error";
}

impl ErrorCode {
    /// Parses a code such as `P0301`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests compare the codes with the pages of docs/errors")]
mod tests {
    use super::*;

    const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/errors");

    #[test]
    fn each_code_has_a_page_with_its_title() {
        let index = std::fs::read_to_string(format!("{PAGES}/README.md")).unwrap();
        for code in ErrorCode::ALL {
            let page = std::fs::read_to_string(format!("{PAGES}/{code}.md"))
                .unwrap_or_else(|error| panic!("docs/errors/{code}.md: {error}"));
            assert_eq!(page.lines().next(), Some(format!("# {code}: {}", code.title()).as_str()));
            let row = format!("| [{code}]({code}.md) | {} |", code.title());
            assert!(index.lines().any(|line| line == row), "docs/errors/README.md has no row {row}");
        }
    }

    #[test]
    fn each_page_has_a_code() {
        let names = std::fs::read_dir(PAGES).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in names.filter(|name| name != "README.md") {
            assert!(name.strip_suffix(".md").and_then(ErrorCode::parse).is_some(), "no error has the page {name}");
        }
    }

    #[test]
    fn numbers_ascend_and_are_read_back() {
        assert!(ErrorCode::ALL.is_sorted_by(|a, b| a.as_str() < b.as_str()));
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        }
        assert_eq!(ErrorCode::parse("P03"), None);
    }
}
