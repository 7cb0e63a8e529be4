//! The pages under docs/errors are true: each first plan causes the error, each second plan is valid.

use super::{parse, parse_for, rendered};
use contract::error_code::ErrorCode;

fn plans(page: &str) -> Vec<&str> {
    page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test reads the pages of docs/errors")]
fn each_error_of_a_plan_has_a_true_page() {
    for code in ErrorCode::ALL.iter().filter(|code| code.as_str() < "P0125") {
        let path = format!("{}/../../../docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page.contains("\n## What to do\n"), "{code}");
        let mut plans = plans(&page).into_iter();
        if *code != ErrorCode::EmptyPlan
            && let Some(bad) = plans.next()
        {
            let errors = parse(bad).expect_err(code.as_str());
            assert!(errors.errors.iter().any(|error| error.code == *code), "{code}: {}", rendered(&errors));
        }
        for good in plans {
            parse(good).unwrap_or_else(|errors| panic!("{code}: {}", rendered(&errors)));
        }
    }
}

#[test]
fn the_plans_in_the_reference_parse() {
    let plans = plans(include_str!("../../../../../docs/plan.md"));
    assert_eq!(plans.len(), 6);
    parse_for(plans[0], Some("prod")).unwrap();
    super::good(plans[1]);
    parse_for(plans[2], Some("test")).unwrap();
    super::good(plans[3]);
    super::good(plans[4]);
    let hosts = include_str!("../../../../../docs/hosts.md");
    super::good(self::plans(hosts)[0]);
    let of_ssh = hosts.split("```yaml\n").skip(1).find(|block| block.contains("ssh: {")).unwrap();
    let of_ssh = of_ssh.split("```").next().unwrap();
    super::good(&format!("version: 1\napp: shop\n{of_ssh}steps: {{ verify: {{}} }}\n"));
}
