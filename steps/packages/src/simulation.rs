//! What apt says that it would do, and which versions it knows.

use crate::manager::AvailableVersion;

/// What `apt-get --simulate` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AptSimulation {
    /// The packages that would be removed, with their versions: `nginx 1.22-1`.
    pub(crate) removed: Vec<String>,
    /// Whether it says that the user is not root.
    pub(crate) is_without_root: bool,
}

impl AptSimulation {
    /// Reads the lines `Remv NAME [VERSION]`, and the note to those who are not root.
    pub(crate) fn parse(text: &str) -> Self {
        let removed = text.lines().filter_map(|line| line.strip_prefix("Remv ")).map(|rest| {
            let mut words = rest.split_whitespace();
            let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            format!("{name} {}", version.trim_matches(['[', ']'])).trim_end().to_owned()
        });
        Self { removed: removed.collect(), is_without_root: text.contains("needs root privileges") }
    }
}

/// Reads what `apt-cache madison` writes: lines `NAME | VERSION | SOURCE`, the newest version first.
pub(crate) fn parse_madison(text: &str) -> Vec<AvailableVersion> {
    let parse = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (name, version, source) = (fields.next()?, fields.next()?, fields.next()?);
        // Sources can't be installed.
        (!source.ends_with("Sources")).then(|| AvailableVersion { name: name.to_owned(), version: version.to_owned() })
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulation_names_what_would_be_removed() {
        let text = "The following packages will be REMOVED:\n  shop-b\nRemv shop-b [2.0]\nRemv shop-c [1:1.0-1] [shop-d ]\n\
                    Inst shop-e (1.0 localhost [all])\nConf shop-e (1.0 localhost [all])\n";
        let simulation = AptSimulation::parse(text);
        assert_eq!(
            (simulation.removed, simulation.is_without_root),
            (vec!["shop-b 2.0".into(), "shop-c 1:1.0-1".into()], false)
        );
        let note = "NOTE: This is only a simulation!\n      apt-get needs root privileges for real execution.\n";
        assert!(AptSimulation::parse(note).is_without_root);
    }

    #[test]
    fn versions_of_binary_packages_are_read() {
        let text = "    shop-b |        2.0 | file:/repo ./ Packages\n    shop-b |        1.0 | file:/repo ./ Packages\n    shop-b | 3.0 | file:/repo ./ Sources\n";
        let versions: Vec<String> =
            parse_madison(text).into_iter().map(|found| format!("{}={}", found.name, found.version)).collect();
        assert_eq!(versions, ["shop-b=2.0", "shop-b=1.0"]);
    }
}
