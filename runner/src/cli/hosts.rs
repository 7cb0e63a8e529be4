//! `runner hosts`: what the hosts of an environment have, and why one can't be reached. Nothing is changed anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{attempts, output::CommandOutput, source::PlanSourceArgs, xdg_dirs};
use crate::{
    agent::wire::AgentPlace,
    remote::{AgentPresence, Dialer, HostSurvey, SurveyedFolder},
    report::{
        self, CommandConclusion, OutputFormat, json,
        table::{FieldLayout, table},
    },
};
use contract::{
    HostGroup, TargetName,
    diagnostic::{Diagnostic, ExitKind, Notice},
    text::{bytes, truncate},
};
use journal::event::Release;
use plan::{EnvironmentHosts, HistoryLocation, PlanHost};

/// A clock that is so far off is worth a warning.
const CLOCK_LIMIT: Duration = Duration::from_secs(30);
/// The widest cells of a host's name and of a release.
const MAX_NAME_COLUMNS: usize = 24;
const MAX_LABEL_COLUMNS: usize = 14;
/// The column of the values of `--verbose`.
const VALUE_COLUMN: usize = 12;

/// Arguments of `hosts`.
#[derive(Debug, clap::Args)]
pub(super) struct HostsArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
}

/// Asks all hosts of the environment at the same time, and shows what they have, in lines of at most `line_width` columns.
///
/// As JSON, `{environment, hosts: [{name, groups, address, reachable, problem, user, architecture, agent, agent-folder: {path, free},
/// state-folder: {path, free}, live: {recorded, on-host}, clock-seconds}]}`. `agent` is `this-build`, `other-build` or `absent`, `free` is in
/// bytes, a release is `{label, digest}`, and `problem` is the result line of its error. What is not known is null; of this machine, that is
/// all but `live.recorded`.
///
/// # Errors
/// The errors of the hosts that can't be used, with exit code 1; otherwise those of the plan or of the environment's history.
pub(super) async fn run(
    args: &HostsArgs,
    screen: &CommandOutput,
    line_width: usize,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    let location = args.plan.location()?;
    let hosts = args.plan.hosts()?;
    let head = attempts::load_state(&args.plan.store()?).map_err(one)?.head;
    let dialer = Dialer::new(hosts.ssh.clone(), xdg_dirs::cache_dirs().cache_dir);
    let asked = hosts_with_groups(&hosts).into_values().map(async |(host, groups)| {
        let found = ask(&dialer, &host, &location).await;
        let recorded = head.live_on(&host.name).cloned();
        HostView { host, groups, recorded, found }
    });
    let views: Vec<_> = futures_util::future::join_all(asked).await;
    let answer = match screen.format() {
        OutputFormat::Json => json::line(&as_json(&location, &views)) + "\n",
        OutputFormat::Text => as_text(&location, &views, screen.is_verbose(), line_width),
    };
    report::write_answer(out, &answer).map_err(one)?;
    for view in &views {
        if let Ok(Some(survey)) = &view.found {
            let warning = survey.clock_warning(&view.host.name, CLOCK_LIMIT);
            warning.into_iter().for_each(|warning| screen.stderr_notifier()(Notice::warning(warning)));
        }
    }
    let problems: Vec<_> = views.into_iter().filter_map(|view| view.found.err()).collect();
    if problems.is_empty() { Ok(ExitKind::Success) } else { Err(problems) }
}

/// A host, and what it said: nothing, if it is this machine.
struct HostView {
    host: Arc<PlanHost>,
    groups: BTreeSet<HostGroup>,
    /// The release that it shows by the history of the environment.
    recorded: Option<Release>,
    found: Result<Option<HostSurvey>, Diagnostic>,
}

/// Each host once, in the order of their names.
fn hosts_with_groups(hosts: &EnvironmentHosts) -> BTreeMap<TargetName, (Arc<PlanHost>, BTreeSet<HostGroup>)> {
    let mut found: BTreeMap<TargetName, (Arc<PlanHost>, BTreeSet<HostGroup>)> = BTreeMap::new();
    for (group, members) in &hosts.groups {
        for host in members {
            let (_, groups) = found.entry(host.name.clone()).or_insert_with(|| (Arc::clone(host), BTreeSet::new()));
            groups.insert(group.clone());
        }
    }
    found
}

async fn ask(dialer: &Dialer, host: &PlanHost, location: &HistoryLocation) -> Result<Option<HostSurvey>, Diagnostic> {
    if !host.is_remote() {
        return Ok(None);
    }
    let HistoryLocation { app, environment, .. } = location;
    let place = AgentPlace { app: app.clone(), environment: environment.clone(), target: host.name.clone() };
    let found = dialer.survey(host, &place).await;
    // That a host is down is the answer, not a refusal.
    found.map(Some).map_err(|error| Diagnostic { exit: ExitKind::Failed, ..error })
}

fn label(release: Option<&Release>) -> &str {
    release.map_or("nothing", |release| release.label.as_str())
}

fn size(folder: &SurveyedFolder) -> String {
    folder.free_bytes.map_or_else(|| "?".to_owned(), bytes)
}

impl HostView {
    /// One word on the host: how its agent is, or the code of what is wrong.
    fn state(&self) -> String {
        match &self.found {
            Err(problem) => problem.code.to_string(),
            Ok(None) => "here".to_owned(),
            Ok(Some(survey)) => match survey.agent {
                AgentPresence::ThisBuild => "ready".to_owned(),
                AgentPresence::OtherBuild => "old agent".to_owned(),
                AgentPresence::Absent => "no agent".to_owned(),
            },
        }
    }

    /// The release that it shows by the history; with what its own records say behind it, if that is another one.
    fn live(&self) -> String {
        let recorded = label(self.recorded.as_ref());
        match self.on_host() {
            Some(own) if label(own) != recorded => format!("{recorded}/{}", label(own)),
            Some(_) | None => recorded.to_owned(),
        }
    }

    /// What its own records say, if they were asked.
    fn on_host(&self) -> Option<Option<&Release>> {
        Some(self.found.as_ref().ok()?.as_ref()?.live.as_ref()?.as_ref())
    }

    fn row(&self) -> [String; 6] {
        let survey = self.found.as_ref().ok().and_then(Option::as_ref);
        let room = survey.map(|survey| {
            let folders = [&survey.agent_folder, &survey.state_folder];
            folders.into_iter().min_by_key(|folder| folder.free_bytes).map(size).unwrap_or_default()
        });
        [
            truncate(self.host.name.as_str(), MAX_NAME_COLUMNS),
            self.state(),
            truncate(&self.live(), MAX_LABEL_COLUMNS),
            room.unwrap_or_default(),
            survey.map(|survey| format!("{:+} s", survey.clock_difference)).unwrap_or_default(),
            self.host.address.to_string(),
        ]
    }

    /// All that is known of it.
    fn text(&self, line_width: usize) -> String {
        let mut text = format!("{}\n", self.host.name);
        let layout = FieldLayout { value_column: VALUE_COLUMN, line_width };
        let mut field = |name: &str, value: &str| layout.push(&mut text, name, value);
        field("address", &self.host.address.to_string());
        field("groups", &self.groups.iter().map(HostGroup::as_str).collect::<Vec<_>>().join(", "));
        field("live", &self.live());
        match &self.found {
            Err(problem) => field("state", &format!("{}: {}", problem.code, problem.message)),
            Ok(None) => field("state", "this machine"),
            Ok(Some(survey)) => {
                let HostSurvey { user, architecture, agent_folder, state_folder, clock_difference, .. } = survey;
                let noexec = survey.noexec_folders.join(", ");
                field("user", &format!("{user}, {architecture}"));
                field("agent", &format!("{}, {} free in {}", self.state(), size(agent_folder), agent_folder.path));
                if !noexec.is_empty() {
                    field("noexec", &format!("no programs may run in {noexec}"));
                }
                field("records", &format!("{} free in {}", size(state_folder), state_folder.path));
                field("clock", &format!("{clock_difference:+} s"));
            }
        }
        text
    }

    fn json(&self) -> Value {
        let problem = self.found.as_ref().err();
        let survey = self.found.as_ref().ok().and_then(Option::as_ref);
        let folder = |folder: &SurveyedFolder| json!({ "path": folder.path, "free": folder.free_bytes });
        let agent = survey.map(|survey| match survey.agent {
            AgentPresence::ThisBuild => "this-build",
            AgentPresence::OtherBuild => "other-build",
            AgentPresence::Absent => "absent",
        });
        json!({
            "name": self.host.name,
            "groups": self.groups,
            "address": self.host.address.to_string(),
            "reachable": problem.is_none(),
            "problem": problem.map(|error| json::result(&CommandConclusion { exit: error.exit, error: Some(error) })),
            "user": survey.map(|survey| &survey.user),
            "architecture": survey.map(|survey| &survey.architecture),
            "agent": agent,
            "agent-folder": survey.map(|survey| folder(&survey.agent_folder)),
            "state-folder": survey.map(|survey| folder(&survey.state_folder)),
            "live": { "recorded": self.recorded, "on-host": self.on_host() },
            "clock-seconds": survey.map(|survey| survey.clock_difference),
        })
    }
}

fn as_text(location: &HistoryLocation, views: &[HostView], is_verbose: bool, line_width: usize) -> String {
    if views.is_empty() {
        return format!("{} has no hosts: its steps run on this machine\n", location.environment);
    }
    if is_verbose {
        return views.iter().map(|view| view.text(line_width)).collect::<Vec<_>>().join("\n");
    }
    let rows: Vec<_> = views.iter().map(HostView::row).collect();
    table(2, line_width, ["HOST", "STATE", "LIVE", "FREE", "CLOCK", "ADDRESS"], &rows)
}

fn as_json(location: &HistoryLocation, views: &[HostView]) -> Value {
    json!({
        "environment": location.environment,
        "hosts": views.iter().map(HostView::json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use contract::{diagnostic::ErrorCode, text::WIDTH};
    use plan::{PlanRequest, PlanSource};

    /// Hosts of a plan, each with what it said.
    fn views() -> Vec<HostView> {
        let text = "version: 1\napp: shop\nenvironments: { prod: { hosts: { web: [local, deploy@10.0.0.7, { at: \"ssh://deploy@10.0.0.8:2222\", name:                     web-frontend-production-eu-central-1a }], worker: [deploy@10.0.0.7] } } }\n";
        let source = PlanSource { path: "deploy.yml".into(), folder: "/".into(), text: text.into() };
        let release = "none".parse().unwrap();
        let request =
            PlanRequest { environment: None, release: &release, env: &|_| None, inventory: &plan::no_inventory };
        let hosts = plan::locate_hosts(&source, &request).unwrap();
        let release = |label: &str| Some(Release { label: label.parse().unwrap(), digest: None });
        let survey = |free_bytes, clock_difference, live| HostSurvey {
            user: "app".to_owned(),
            architecture: "x86_64".to_owned(),
            clock_difference,
            agent: AgentPresence::ThisBuild,
            noexec_folders: Vec::new(),
            agent_folder: SurveyedFolder { path: "/var/lib/app/.cache/pawl".to_owned(), free_bytes },
            state_folder: SurveyedFolder {
                path: "/var/lib/app/.local/state/pawl".to_owned(),
                free_bytes: Some(1 << 40),
            },
            live: Some(live),
        };
        let view = |(host, groups): (Arc<PlanHost>, BTreeSet<HostGroup>)| {
            let (recorded, found) = match host.name.as_str() {
                "local" => (None, Ok(None)),
                "deploy@10.0.0.7" => {
                    (release("v1.40.2-rc.1"), Ok(Some(survey(Some(52 << 30), -12_345, release("v1.40.1")))))
                }
                _ => (release("r1"), Err(Diagnostic::new(ErrorCode::HostUnreachable, "host `web` can't be reached"))),
            };
            HostView { host, groups, recorded, found }
        };
        hosts_with_groups(&hosts).into_values().map(view).collect()
    }

    fn location() -> HistoryLocation {
        HistoryLocation {
            app: "shop".parse().unwrap(),
            environment: "prod".parse().unwrap(),
            after: None,
            allow: Vec::new(),
            state: plan::StateLocation::Dir("/".into()),
        }
    }

    #[test]
    fn table_fits_a_terminal() {
        let table = as_text(&location(), &views(), false, WIDTH);
        // With a line that is not indented: `expect!` takes away what all lines have.
        expect![[r#"
            HOSTS
              HOST                      STATE  LIVE            FREE      CLOCK     ADDRESS
              deploy@10.0.0.7           ready  v1.40.2-rc.1/…  52.0 GiB  -12345 s  deploy@1…
              local                     here   nothing                             local
              web-frontend-production…  P0260  r1                                  deploy@1…
        "#]]
        .assert_eq(&format!("HOSTS\n{table}"));
        assert!(table.lines().all(|line| contract::text::column_count(line) <= WIDTH));
    }

    #[test]
    fn everything_that_is_known_has_its_field() {
        expect![[r#"
            deploy@10.0.0.7
              address   deploy@10.0.0.7
              groups    web, worker
              live      v1.40.2-rc.1/v1.40.1
              user      app, x86_64
              agent     ready, 52.0 GiB free in /var/lib/app/.cache/pawl
              records   1024.0 GiB free in /var/lib/app/.local/state/pawl
              clock     -12345 s

            local
              address   local
              groups    web
              live      nothing
              state     this machine

            web-frontend-production-eu-central-1a
              address   deploy@10.0.0.8:2222
              groups    web
              live      r1
              state     P0260: host `web` can't be reached
        "#]]
        .assert_eq(&as_text(&location(), &views(), true, WIDTH));
        expect![[r#"{"environment":"prod","hosts":[{"name":"deploy@10.0.0.7","groups":["web","worker"],"address":"deploy@10.0.0.7","reachable":true,"problem":null,"user":"app","architecture":"x86_64","agent":"this-build","agent-folder":{"path":"/var/lib/app/.cache/pawl","free":55834574848},"state-folder":{"path":"/var/lib/app/.local/state/pawl","free":1099511627776},"live":{"recorded":{"label":"v1.40.2-rc.1","digest":null},"on-host":{"label":"v1.40.1","digest":null}},"clock-seconds":-12345},{"name":"local","groups":["web"],"address":"local","reachable":true,"problem":null,"user":null,"architecture":null,"agent":null,"agent-folder":null,"state-folder":null,"live":{"recorded":null,"on-host":null},"clock-seconds":null},{"name":"web-frontend-production-eu-central-1a","groups":["web"],"address":"deploy@10.0.0.8:2222","reachable":false,"problem":{"type":"result","exit":"refused","status":2,"code":"P0260","message":"host `web` can't be reached","causes":[],"hint":null},"user":null,"architecture":null,"agent":null,"agent-folder":null,"state-folder":null,"live":{"recorded":{"label":"r1","digest":null},"on-host":null},"clock-seconds":null}]}"#]].assert_eq(&json::line(&as_json(&location(), &views())));
    }
}
