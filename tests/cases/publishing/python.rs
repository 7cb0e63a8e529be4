//! Python packages, to a real pypiserver, from which pip installs them.

use std::fs;

use crate::support::{PypiAuth, PypiServer, TestEnvironment, doc_blocks::fenced_block};

const VARIABLE: &str = "INDEX_LOGIN";

/// A Python project whose version is filled in, and a client of this index.
fn project(index: &PypiServer) -> TestEnvironment {
    let mut environment = TestEnvironment::new();
    let project = "[build-system]\nrequires = [\"setuptools\"]\nbuild-backend = \"setuptools.build_meta\"\n\
                   [project]\nname = \"acme-shop\"\nversion = \"@VERSION@\"\nreadme = \"README.md\"\n\
                   classifiers = [\"Programming Language :: Python :: 3\", \"Topic :: Internet\"]\n\
                   [tool.setuptools]\npy-modules = [\"acme_shop\"]\n";
    environment.write("pyproject.toml", project);
    environment.write("README.md", "# Shop\n\nSells.\n");
    environment.write("acme_shop.py", "print('shop')\n");
    environment.write(".pawlignore", "/app/\n/build/\n/dist/\n/migrations/\n/deploy.yml\n");
    fs::create_dir(environment.path("build")).unwrap();
    environment.set_variable("PIP_INDEX_URL", &index.url().replace("http://", "http://ann:secret@"));
    environment.set_variable("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    environment.set_variable(VARIABLE, "Basic ann:secret");
    environment
}

/// A zip with a comment at its end, which changes nothing but the digest.
fn with_comment(mut zip: Vec<u8>) -> Vec<u8> {
    let length = zip.len();
    zip[length - 2] = 1;
    zip.push(b'x');
    zip
}

#[test]
fn commands_of_the_page_build_and_publish_a_package() {
    let index = PypiServer::start(PypiAuth::Basic);
    let environment = project(&index);
    let target = format!("pypi+http://{}/", index.authority());
    let script = fenced_block("docs/publish.md", "pip wheel").replace("runner p", "\"$0\" p");
    let script =
        script.replace("pypi+https://pypi.example.com/", &target).replace("pip wheel", "python3 -m pip wheel --quiet");
    let published = environment.run_script(&script);
    let said = &published.assert_exit(0).stdout;
    assert!(said.contains("published acme-shop==20"), "{said}");

    // The line for pip gets it from there.
    let line = said.lines().find(|line| line.contains("--hash=")).unwrap();
    environment.write("requirements.txt", format!("{}\n", line.trim()));
    let install = "python3 -m pip install --quiet --require-hashes --no-deps --target site -r requirements.txt && python3 site/acme_shop.py";
    assert_eq!(environment.run_script(install).assert_exit(0).stdout, "shop\n");

    // The same again is a success; another content is refused; so is who is not ann.
    let [wheel] = &environment.list("dist")[..] else { panic!("one wheel") };
    let wheel = format!("dist/{wheel}");
    let publish = |login: &[&str]| environment.run(&[&["publish", wheel.as_str(), target.as_str()], login].concat());
    let again = publish(&["--authorization", VARIABLE]);
    assert!(again.assert_exit(0).stdout.starts_with("already published"), "{}", again.stdout);
    publish(&[]).assert_exit(1).assert_stderr_contains("error[P0237]").assert_stderr_contains("(status 401)");
    let kept = fs::read(index.packages().join(wheel.trim_start_matches("dist/"))).unwrap();
    environment.write(&wheel, with_comment(kept.clone()));
    let other = publish(&["--authorization", VARIABLE]);
    other.assert_exit(2).assert_stderr_contains("error[P0238]");
    assert!(fs::read(index.packages().join(wheel.trim_start_matches("dist/"))).unwrap() == kept);
}

#[test]
fn source_distribution_is_published() {
    let index = PypiServer::start(PypiAuth::Basic);
    let mut environment = project(&index);
    let setuptools = index.packages().join("setuptools-80.9.0-py3-none-any.whl");
    environment.set_variable("SETUPTOOLS", &setuptools.display().to_string());
    let build = "\"$0\" pack . --version 1.2 --render pyproject.toml --out - | tar --extract --zstd --directory build; \
                 python3 -m zipfile --extract \"$SETUPTOOLS\" tools; \
                 cd build && PYTHONPATH=../tools python3 -c 'import setuptools.build_meta as b; b.build_sdist(\"../dist\")'";
    environment.run_script(build).assert_exit(0);
    let target = format!("pypi+http://{}/", index.authority());
    let arguments = ["publish", "dist/acme_shop-1.2.tar.gz", target.as_str(), "--authorization", VARIABLE, "--json"];
    let published = environment.run(&arguments).assert_exit(0).json();
    assert_eq!(published["location"], "acme-shop==1.2");
    assert!(index.packages().join("acme_shop-1.2.tar.gz").exists());
}

#[test]
fn what_is_no_package_is_refused() {
    let environment = super::packed();
    for (file, text) in [
        (super::ARCHIVE, "ends neither in .whl nor in .tar.gz"),
        ("dist/x-1-py3-none-any.whl", "it is no Python package"),
    ] {
        if !environment.exists(file) {
            environment.write(file, "no zip");
        }
        let output = environment.run(&["publish", file, "pypi+http://127.0.0.1:9/"]);
        output.assert_exit(2).assert_stderr_contains("error[P0237]").assert_stderr_contains(text);
    }
}

/// A wheel that other people made, with all that its metadata says.
#[test]
fn wheel_of_others_is_published() {
    let index = PypiServer::start(PypiAuth::Anonymous);
    let environment = TestEnvironment::new();
    let name = "gunicorn-23.0.0-py3-none-any.whl";
    environment.write(name, fs::read(index.packages().join(name)).unwrap());
    let target = format!("pypi+http://{}/", index.authority());
    let publish = |file: &str| environment.run(&["publish", file, target.as_str()]);
    let expected = index.gunicorn().lines().next().unwrap().to_owned();
    let there = publish(name);
    assert!(there.assert_exit(0).stdout.starts_with("already published gunicorn==23.0.0"), "{}", there.stdout);
    fs::remove_file(index.packages().join(name)).unwrap();
    let published = publish(name);
    assert!(published.assert_exit(0).stdout.starts_with("published gunicorn==23.0.0"), "{}", published.stdout);
    assert!(published.stdout.contains(&expected), "{expected:?} is not in {}", published.stdout);

    index.add_application("acme", "1.0");
    let taken = "acme-1.0-py3-none-any.whl";
    let content = fs::read(index.packages().join(taken)).unwrap();
    environment.write(taken, &content);
    assert!(publish(taken).assert_exit(0).stdout.starts_with("already published"));
    environment.write(taken, with_comment(content));
    publish(taken).assert_exit(2).assert_stderr_contains("error[P0238]");
}
