//! What users see of a deployment to a few hosts and to many. They are folders of this machine.

use expect_test::{Expect, expect};
use serde_json::Value;

use crate::support::TestEnvironment;

/// `restart` fails on a host while its folder has a file `broken`.
fn fleet(hosts: usize) -> TestEnvironment {
    let list: String = (1..=hosts)
        .map(|number| {
            format!("        - {{ at: local, name: web-{number}, vars: {{ root: ./deploy/web-{number} }} }}\n")
        })
        .collect();
    let environment = TestEnvironment::with_plan(&format!(
        r#"version: 1
app: shop
dirs: {{ app: "${{{{ host.vars.root }}}}", dist: "./dist:ro" }}
environments:
  test:
    hosts:
      web:
{list}steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.zst", into: app }}
    grants: {{ dirs: [app, dist] }}
  restart:
    on: web
    program: [/bin/sh, -c, "echo ${{{{ release }}}}; test ! -e broken"]
    trust: host
    with: {{ dir: app, repeatable: true }}
    grants: {{ dirs: [app] }}
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
"#
    ));
    environment.pack("r1");
    environment.pack("r2");
    environment
}

/// The texts of a release, of one that fails on `web-7`, and of the commands that tell about it.
fn check(hosts: usize, [plan, deployed, failed, told]: [Expect; 4]) {
    let environment = fleet(hosts);
    plan.assert_eq(&environment.run(&["plan", "--release", "r1"]).assert_exit(0).stdout_snapshot());
    deployed.assert_eq(&environment.run(&["--local", "--release", "r1"]).assert_exit(0).stderr_snapshot());
    environment.write("deploy/web-7/broken", "");
    failed.assert_eq(&environment.run(&["--local", "--release", "r2"]).assert_exit(1).stderr_snapshot());
    // The hashes that a changed step is told with differ from run to run.
    let why = if hosts > 8 { "why restart" } else { "why switch" };
    let commands = [why, "why switch --target web-2", "why switch --target db-1", "status --steps"];
    let told_text = |line: &str| {
        let output = environment.run(&line.split(' ').collect::<Vec<_>>());
        format!("$ runner {line}\n{}{}", output.stdout_snapshot(), output.stderr_snapshot())
    };
    told.assert_eq(&commands.map(told_text).join("\n"));
    let status: Value = serde_json::from_str(&environment.run(&["status", "--json"]).stdout).unwrap();
    let state = |host: &Value| format!("{} {} {}", host["name"], host["groups"][0], host["state"]).replace('"', "");
    let states: Vec<String> = status[0]["hosts"].as_array().unwrap().iter().map(state).collect();
    assert_eq!(states.len(), hosts);
    assert!(
        states.contains(&"web-7 web failed".to_owned()) && states.contains(&"web-1 web behind".to_owned()),
        "{states:?}"
    );
}

#[test]
fn eight_hosts_are_shown_each() {
    check(
        8,
        [
            expect![[r#"
        shop r1 → test (preview: nothing is changed)
          run    pull@web-1     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-2     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-3     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-3 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-4     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-4 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-5     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-5 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-6     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-6 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-7     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-7 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    pull@web-8     prepare  first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-8 (read and write; from `dirs.app` of the plan)
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    restart@web-1  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-2  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-3  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-3 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-4  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-4 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-5  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-5 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-6  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-6 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-7  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-7 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    restart@web-8  commit   first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-8 (read and write; from `dirs.app` of the plan)
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    switch@web-1   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)
          run    switch@web-2   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)
          run    switch@web-3   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-3 (read and write; from `dirs.app` of the plan)
          run    switch@web-4   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-4 (read and write; from `dirs.app` of the plan)
          run    switch@web-5   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-5 (read and write; from `dirs.app` of the plan)
          run    switch@web-6   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-6 (read and write; from `dirs.app` of the plan)
          run    switch@web-7   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-7 (read and write; from `dirs.app` of the plan)
          run    switch@web-8   commit   first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-8 (read and write; from `dirs.app` of the plan)
          programs get `PATH` = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin and `HOME` = the home of the runner's user, unless the step sets them
    "#]],
            expect![[r#"
        note: wrote deploy.lock, which pins the modules; commit it
        shop r1 to test (run [RUN 1], attempt 1)
          start  pull           first run
          ran    pull@web-1     295 B, 3 files [TIME]
          ran    pull@web-2     295 B, 3 files [TIME]
          ran    pull@web-3     295 B, 3 files [TIME]
          ran    pull@web-4     295 B, 3 files [TIME]
          ran    pull@web-5     295 B, 3 files [TIME]
          ran    pull@web-6     295 B, 3 files [TIME]
          ran    pull@web-7     295 B, 3 files [TIME]
          ran    pull@web-8     295 B, 3 files [TIME]
          start  restart        first run
          out    restart@web-1  r1
          ran    restart@web-1 [TIME]
          out    restart@web-2  r1
          ran    restart@web-2 [TIME]
          out    restart@web-3  r1
          ran    restart@web-3 [TIME]
          out    restart@web-4  r1
          ran    restart@web-4 [TIME]
          out    restart@web-5  r1
          ran    restart@web-5 [TIME]
          out    restart@web-6  r1
          ran    restart@web-6 [TIME]
          out    restart@web-7  r1
          ran    restart@web-7 [TIME]
          out    restart@web-8  r1
          ran    restart@web-8 [TIME]
          start  switch         first run
          ran    switch@web-1 [TIME]
          ran    switch@web-2 [TIME]
          ran    switch@web-3 [TIME]
          ran    switch@web-4 [TIME]
          ran    switch@web-5 [TIME]
          ran    switch@web-6 [TIME]
          ran    switch@web-7 [TIME]
          ran    switch@web-8 [TIME]
    "#]],
            expect![[r#"
        shop r2 to test (run [RUN 2], attempt 1)
          start  pull           its configuration and the release changed
          ran    pull@web-1     295 B, 3 files [TIME]
          ran    pull@web-2     295 B, 3 files [TIME]
          ran    pull@web-3     295 B, 3 files [TIME]
          ran    pull@web-4     295 B, 3 files [TIME]
          ran    pull@web-5     295 B, 3 files [TIME]
          ran    pull@web-6     295 B, 3 files [TIME]
          ran    pull@web-7     295 B, 3 files [TIME]
          ran    pull@web-8     295 B, 3 files [TIME]
          start  restart        its configuration, its grants, the release and outputs of earlier steps changed
          out    restart@web-1  r2
          ran    restart@web-1 [TIME]
          out    restart@web-2  r2
          ran    restart@web-2 [TIME]
          out    restart@web-3  r2
          ran    restart@web-3 [TIME]
          out    restart@web-4  r2
          ran    restart@web-4 [TIME]
          out    restart@web-5  r2
          ran    restart@web-5 [TIME]
          out    restart@web-6  r2
          ran    restart@web-6 [TIME]
          out    restart@web-7  r2
          FAIL   restart@web-7  `/bin/sh -c 'echo r2; test ! -e broken'` exited with status 1: r2 [TIME]
        error[P0301]: step `restart` on web-7 failed on attempt 1
          caused by: `/bin/sh -c 'echo r2; test ! -e broken'` exited with status 1: r2
          hint: read the full output with `runner logs`, and fix the cause; then run `runner --local --release r2` again (skips: pull, restart on 6 of 8 hosts)
    "#]],
            expect![[r#"
                $ runner why switch
                `switch` on web-1, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-2, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-3, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-4, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-5, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-6, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-7, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                `switch` on web-8, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                $ runner why switch --target web-2
                `switch` on web-2, epoch 2: r2 to test (run [RUN 2], attempt 1)

                  decision  none: the attempt did not reach it (failed at `restart` on web-7)
                  record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
                  probe     not run

                $ runner why switch --target db-1
                error[P0210]: in the attempt with epoch 2, step `switch` has no target `db-1`
                  caused by: its targets are web-1, web-2, web-3, web-4, web-5, web-6, web-7, web-8
                  hint: use one of its targets

                $ runner status --steps
                test
                  live        r1, verified, since [DATE] [DATE] by [WHO]
                  last        r2: failed at `restart` on web-7; epoch 2, run [RUN 2], attempt 1, started [DATE] [DATE] by [WHO], took [TIME]
                  unfinished  run [RUN 2] is at `restart` on web-7; to continue, deploy r2 again
                  hosts       behind: web-1, web-2, web-3, web-4, web-5, web-6 and 1 more; failed: web-7

                  STEP           STATE      RELEASE  EPOCH  RUN
                  pull@web-1     succeeded  r2       2      [RUN 2]/1
                  pull@web-2     succeeded  r2       2      [RUN 2]/1
                  pull@web-3     succeeded  r2       2      [RUN 2]/1
                  pull@web-4     succeeded  r2       2      [RUN 2]/1
                  pull@web-5     succeeded  r2       2      [RUN 2]/1
                  pull@web-6     succeeded  r2       2      [RUN 2]/1
                  pull@web-7     succeeded  r2       2      [RUN 2]/1
                  pull@web-8     succeeded  r2       2      [RUN 2]/1
                  restart@web-1  succeeded  r2       2      [RUN 2]/1
                  restart@web-2  succeeded  r2       2      [RUN 2]/1
                  restart@web-3  succeeded  r2       2      [RUN 2]/1
                  restart@web-4  succeeded  r2       2      [RUN 2]/1
                  restart@web-5  succeeded  r2       2      [RUN 2]/1
                  restart@web-6  succeeded  r2       2      [RUN 2]/1
                  restart@web-7  failed     r2       2      [RUN 2]/1
                  restart@web-8  succeeded  r1       1      [RUN 1]/1
                  switch@web-1   succeeded  r1       1      [RUN 1]/1
                  switch@web-2   succeeded  r1       1      [RUN 1]/1
                  switch@web-3   succeeded  r1       1      [RUN 1]/1
                  switch@web-4   succeeded  r1       1      [RUN 1]/1
                  switch@web-5   succeeded  r1       1      [RUN 1]/1
                  switch@web-6   succeeded  r1       1      [RUN 1]/1
                  switch@web-7   succeeded  r1       1      [RUN 1]/1
                  switch@web-8   succeeded  r1       1      [RUN 1]/1
            "#]],
        ],
    );
}

#[test]
fn a_hundred_hosts_are_counted() {
    check(
        100,
        [
            expect![[r#"
        shop r1 → test (preview: nothing is changed)
          run    pull     prepare  on 100 hosts: first run
                   create app/releases/r1-[HASH]  (release r1 from file:dist/shop-r1.tar.zst)
                   needs a writable directory `app`: it stores releases/ and shared/
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)  [on web-1]
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)  [on web-2]
                   may reach directory `app` = [ROOT]/shop/deploy/web-3 (read and write; from `dirs.app` of the plan)  [on web-3]
                   may reach directory `app` … 97 more that differ by host; `runner plan --json` has all
                   may reach directory `dist` = [ROOT]/shop/dist (read only; from `dirs.dist` of the plan)
          run    restart  commit   on 100 hosts: first run
                   run /bin/sh -c 'echo r1; test ! -e broken'
                   needs a program: it is run
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)  [on web-1]
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)  [on web-2]
                   may reach directory `app` = [ROOT]/shop/deploy/web-3 (read and write; from `dirs.app` of the plan)  [on web-3]
                   may reach directory `app` … 97 more that differ by host; `runner plan --json` has all
                   may reach program /bin/sh -c echo r1; test ! -e broken (from `with.program`)
                   TRUST: HOST — this step can do whatever this machine's user can
          run    switch   commit   on 100 hosts: first run
                   not known yet: it is known after `pull` and `restart`
                   needs a writable directory: it holds the link and the releases
                   may reach directory `app` = [ROOT]/shop/deploy/web-1 (read and write; from `dirs.app` of the plan)  [on web-1]
                   may reach directory `app` = [ROOT]/shop/deploy/web-2 (read and write; from `dirs.app` of the plan)  [on web-2]
                   may reach directory `app` = [ROOT]/shop/deploy/web-3 (read and write; from `dirs.app` of the plan)  [on web-3]
                   may reach directory `app` … 97 more that differ by host; `runner plan --json` has all
          programs get `PATH` = /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin and `HOME` = the home of the runner's user, unless the step sets them
    "#]],
            expect![[r#"
        note: wrote deploy.lock, which pins the modules; commit it
        shop r1 to test (run [RUN 1], attempt 1)
          start  pull     first run
          ran    pull     100/100  ran 100 [TIME]
          start  restart  first run
          ran    restart  100/100  ran 100 [TIME]
          start  switch   first run
          ran    switch   100/100  ran 100 [TIME]
    "#]],
            expect![[r#"
        shop r2 to test (run [RUN 2], attempt 1)
          start  pull     its configuration and the release changed
          ran    pull     100/100  ran 100 [TIME]
          start  restart  its configuration, its grants, the release and outputs of earlier steps changed
          FAIL   restart@web-7  `/bin/sh -c 'echo r2; test ! -e broken'` exited with status 1: r2 [TIME]
          FAIL   restart  7/100  ran 6 · failed web-7 [TIME]
        error[P0301]: step `restart` on web-7 failed on attempt 1
          caused by: `/bin/sh -c 'echo r2; test ! -e broken'` exited with status 1: r2
          hint: read the full output with `runner logs`, and fix the cause; then run `runner --local --release r2` again (skips: pull, restart on 6 of 100 hosts)
    "#]],
            expect![[r#"
        $ runner why restart
        `restart` on 100 targets, epoch 2: r2 to test (run [RUN 2], attempt 1)

          6     run: its configuration, its grants, the release and outputs of earlier steps changed; succeeded
                on web-1, web-2, web-3, web-4, web-5, web-6
          1     run: its configuration, its grants, the release and outputs of earlier steps changed; failed: `/bin/sh -c 'echo r2; test ! -e broken'` exited with status 1: r2
                on web-7
          93    the attempt did not reach it (failed at `restart` on web-7)
                on web-8, web-9, web-10, web-11, web-12, web-13, web-14, web-15 and 85 more

          more  `runner why restart --target web-7` has the evidence of one

        $ runner why switch --target web-2
        `switch` on web-2, epoch 2: r2 to test (run [RUN 2], attempt 1)

          decision  none: the attempt did not reach it (failed at `restart` on web-7)
          record    succeeded in epoch 1, [DATE] [DATE] (r1, run [RUN 1], attempt 1)
          probe     not run

        $ runner why switch --target db-1
        error[P0210]: in the attempt with epoch 2, step `switch` has no target `db-1`
          caused by: its targets are web-1, web-2, web-3, web-4, web-5, web-6, web-7, web-8 and 92 more
          hint: use one of its targets

        $ runner status --steps
        test
          live        r1, verified, since [DATE] [DATE] by [WHO]
          last        r2: failed at `restart` on web-7; epoch 2, run [RUN 2], attempt 1, started [DATE] [DATE] by [WHO], took [TIME]
          unfinished  run [RUN 2] is at `restart` on web-7; to continue, deploy r2 again
          hosts       99 behind; failed: web-7

          STEP                 STATE      RELEASE  EPOCH  RUN
          pull on 100 hosts    succeeded  r2       2      [RUN 2]/1
          restart on 6 hosts   succeeded  r2       2      [RUN 2]/1
          restart@web-7        failed     r2       2      [RUN 2]/1
          restart on 93 hosts  succeeded  r1       1      [RUN 1]/1
          switch on 100 hosts  succeeded  r1       1      [RUN 1]/1
    "#]],
        ],
    );
}
