//! Writes a greeting to a file in a granted directory.
use pawl_step::{
    Capability, CapabilityNeed, Change, ChangeAction, DirectoryAccess, Failure, Finding, Input, ModuleDescription,
    ProbeSupport, Receipt, RerunSafety, Step, fs,
};

struct Hello;

#[derive(serde::Deserialize)]
struct Config {
    file: String,
    name: String,
}

impl Step for Hello {
    type Config = Config;
    fn describe() -> ModuleDescription {
        let (version, schema) = (env!("CARGO_PKG_VERSION"), include_str!("../config.schema.json"));
        let needs = vec![CapabilityNeed {
            capability: Capability::Dirs(DirectoryAccess::Write),
            config: None,
            reason: "holds the file",
        }];
        let new = ModuleDescription::new("my-step", version, "writes a greeting to a file", schema);
        ModuleDescription { needs, repeatable: RerunSafety::Always, probes: ProbeSupport::Always, reverts: true, ..new }
    }
    fn preview(input: &Input<Config>) -> Result<Vec<Change>, Failure> {
        Ok(vec![Change::new(ChangeAction::Update, &input.config.file, greeting(input))])
    }
    fn apply(input: &Input<Config>) -> Result<Receipt, Failure> {
        fs::write_atomic(&input.config.file, greeting(input).as_bytes())?;
        Ok(receipt(input))
    }
    fn probe(input: &Input<Config>) -> Result<Finding, Failure> {
        let file = &input.config.file;
        let held = fs::exists(file)? && fs::read_text(file)? == greeting(input);
        Ok(if held { Finding::Held(receipt(input)) } else { Finding::Absent })
    }
    fn revert(input: &Input<Config>, _: &Receipt) -> Result<(), Failure> {
        fs::remove(&input.config.file)
    }
}

fn greeting(input: &Input<Config>) -> String {
    format!("Hello, {}, from {}\n", input.config.name, input.release.label)
}

fn receipt(input: &Input<Config>) -> Receipt {
    Receipt::new().output("file", input.config.file.as_str())
}

pawl_step::export!(Hello);

#[cfg(test)]
mod tests {
    use super::*;
    use pawl_step::testing::{self, TestSandbox};

    #[test]
    fn greets() {
        testing::assert_described::<Hello>();
        let sandbox = TestSandbox::new();
        let app = sandbox.grant("app", DirectoryAccess::Write);
        let input = testing::input("my-step", Config { file: "app/hello.txt".into(), name: "Ada".into() });
        assert_eq!(Hello::probe(&input), Ok(Finding::Absent));
        let receipt = Hello::apply(&input).unwrap();
        assert_eq!(std::fs::read_to_string(app.join("hello.txt")).unwrap(), "Hello, Ada, from v1\n");
        assert_eq!(Hello::probe(&input), Ok(Finding::Held(receipt)));
    }
}
