//! The hub: what its clients ask, and the words by which they tell refusals. (That they work is tested with Python.)

use bytes::Bytes;
use gigastore_client::checkpoint::SaveSpec;
use gigastore_client::transfer::progress::Progress;
use gigastore_server::Access;
use gigastore_tests::model::{Size, transformer};
use gigastore_tests::opened::save;
use gigastore_tests::raw::Answer;
use serde_json::{Value, json};

use crate::served::{Served, Setup, TABLE, bearer, config_file, file, spec, token};

async fn ask(served: &Served, method: &str, target: &str) -> Answer {
    served.ask(method, target, &[], b"").await
}

fn names(list: &Value) -> Vec<(&str, &str)> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["type"].as_str().unwrap(), entry["path"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_a_model_by_every_revision() {
    let served = Served::new().await;
    served.fill(None).await;
    let info = served.get("/api/models/p/run").await;
    let (sha, body) = (info.header("x-repo-commit").unwrap().to_owned(), info.json());
    assert_eq!((body["sha"].as_str(), body["id"].as_str()), (Some(sha.as_str()), Some("p/run")));
    assert!(sha.len() == 40 && sha.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{sha}");
    assert_eq!(body["siblings"], json!([{ "rfilename": "model.safetensors" }, { "rfilename": "sub/config.json" }]));
    assert_eq!((&body["private"], &body["tags"]), (&json!(false), &json!(["best", "latest"])));
    let modified = body["lastModified"].as_str().unwrap();
    assert!(modified.len() == 24 && modified.starts_with("20") && modified.ends_with('Z'), "{modified}");
    for revision in ["main", "1", "best", "latest", &sha] {
        let again = served.get(&format!("/api/models/p/run/revision/{revision}?blobs=true")).await.json();
        assert_eq!(again["sha"].as_str(), Some(sha.as_str()), "{revision}");
        assert_eq!(again["siblings"][1]["size"], json!(config_file().len()));
        let target = format!("/p/run/resolve/{revision}/sub/config.json");
        let file = served.get(&target).await;
        assert!(file.status == 200 && file.body == config_file(), "{revision}");
        let head = ask(&served, "HEAD", &target).await;
        assert_eq!(head.header("x-repo-commit"), Some(sha.as_str()));
        assert_eq!(head.header("etag"), file.header("etag"));
        // What may come to mean another commit is sent on to the one that it means now.
        if revision == sha {
            let len = config_file().len().to_string();
            assert_eq!((head.status, head.header("content-length")), (200, Some(len.as_str())));
        } else {
            let to = format!("/p/run/resolve/{sha}/sub/config.json");
            assert_eq!((head.status, head.header("location")), (307, Some(to.as_str())));
        }
    }
    let whole = served.get("/v1/projects/p/checkpoints/run/1/files/model.safetensors").await.body;
    let part = served.ask("GET", "/p/run/resolve/main/model.safetensors", &[("Range", "bytes=8-4999")], b"").await;
    assert!(part.status == 206 && part.body == whole[8..5000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_listed_and_paths_are_told() {
    let served = Served::new().await;
    served.fill(None).await;
    let tree = async |rest: &str| served.get(&format!("/api/models/p/run/tree/{rest}")).await;
    let model = ("file", "model.safetensors");
    assert_eq!(names(&tree("main").await.json()), [model, ("directory", "sub")]);
    for all in ["main?recursive=true", "main?recursive=True&expand=True", "main?recursive=1"] {
        assert_eq!(names(&tree(all).await.json()), [model, ("directory", "sub"), ("file", "sub/config.json")]);
    }
    for below in ["main/sub", "main/sub?recursive=true", "main/sub/"] {
        let list = tree(below).await.json();
        assert_eq!(names(&list), [("file", "sub/config.json")], "{below}");
        assert_eq!(
            (list[0]["size"].as_u64(), list[0]["oid"].as_str().unwrap().len()),
            (Some(config_file().len() as u64), 40)
        );
        assert!(list[0]["lastCommit"].is_null());
    }
    assert_eq!(tree("main?expand=true").await.json()[0]["lastCommit"]["title"], "run@1");
    for nothing in ["main/su", "main/sub/config.json", "main/nothing"] {
        let answer = tree(nothing).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (404, Some("EntryNotFound")), "{nothing}");
    }
    let form = "paths=sub&paths=sub%2Fconfig.json&paths=nothing&paths=sub%2F&expand=False";
    let json = json!({ "paths": ["sub", "sub/config.json", "nothing", "sub/"], "expand": false }).to_string();
    for (kind, body) in [("application/x-www-form-urlencoded", form), ("application/json", &json)] {
        let told =
            served.ask("POST", "/api/models/p/run/paths-info/main", &[("Content-Type", kind)], body.as_bytes()).await;
        assert_eq!(names(&told.json()), [("directory", "sub"), ("file", "sub/config.json")], "{kind}");
    }
    for (kind, body) in [("application/json", "{}"), ("application/json", "paths=a"), ("text/plain", "%")] {
        let answer =
            served.ask("POST", "/api/models/p/run/paths-info/main", &[("Content-Type", kind)], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_come_in_pages_and_long_questions_are_refused() {
    let served = Served::new().await;
    let store = served.store(None);
    let save = store.begin_save(spec("p", "run", 1, 1), Progress::default()).await.unwrap();
    let paths: Vec<String> = (0..1500).map(|i| format!("d é&/{}/{i:04}.txt", i / 500)).collect();
    save.rank(0, paths.iter().map(|path| file(path, Bytes::new())).collect()).await.unwrap();
    save.finish().await.unwrap();
    for (query, lengths) in
        [("recursive=true", vec![1000, 504]), ("recursive=true&expand=true&limit=700", vec![700, 700, 104])]
    {
        let (mut target, mut all, mut found) = (format!("/api/models/p/run/tree/main?{query}"), Vec::new(), Vec::new());
        loop {
            let page = served.get(&target).await;
            assert_eq!(page.status, 200, "{}", page.text());
            let list = page.json();
            assert_eq!(list[0]["lastCommit"].is_object(), query.contains("expand"));
            found.push(list.as_array().unwrap().len());
            all.extend(names(&list).into_iter().map(|(kind, path)| (kind.to_owned(), path.to_owned())));
            // An address of its own, as clients ask for it as it is.
            let Some(link) = page.header("link") else { break };
            let next = link.strip_prefix("<http://localhost").unwrap();
            target = next.strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        }
        assert_eq!(found, lengths);
        assert_eq!(all.iter().filter(|(kind, _)| kind == "directory").count(), 4);
        let files: Vec<&String> = all.iter().filter(|(kind, _)| kind == "file").map(|(_, path)| path).collect();
        assert!(files.iter().copied().eq(&paths));
    }
    let link = served.ask("GET", "/api/models/p/run/tree/main?recursive=1", &[("X-Forwarded-Proto", "https")], b"");
    assert!(link.await.header("link").unwrap().starts_with("<https://"));
    let ask = async |count: usize| {
        let body = json!({ "paths": vec!["d é&"; count] }).to_string();
        let kind = [("Content-Type", "application/json")];
        served.ask("POST", "/api/models/p/run/paths-info/main", &kind, body.as_bytes()).await
    };
    assert_eq!(names(&ask(1000).await.json()), [("directory", "d é&")], "each once");
    assert_eq!(ask(1001).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_may_look_like_a_commit_and_any_name_may_be_asked_for() {
    let served = Served::new().await;
    let tag = "0123456789abcdef0123456789abcdef01234567";
    let spec = SaveSpec { tag: Some(tag.parse().unwrap()), ..spec("p", "run", 1, 2) };
    save(&served.store(None), spec, &transformer(1, Size::TINY)).await.unwrap();
    let info = served.get(&format!("/api/models/p/run/revision/{tag}")).await;
    assert_eq!(info.json()["sha"], served.get("/api/models/p/run").await.json()["sha"]);
    for target in [
        "/api/models/Qwen/Qwen2",
        "/Qwen/Qwen2/resolve/main/config.json",
        "/datasets/Qwen/Qwen2/resolve/main/a",
        "/api/datasets/-/a/tree/main",
        "/api/models/gpt2",
        "/gpt2/resolve/main/config.json",
    ] {
        let answer = served.get(target).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (404, Some("RepoNotFound")), "{target}");
    }
    assert_eq!(served.get("/v1/projects/Qwen").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_is_one_and_no_model() {
    let served = Served::new().await;
    served.fill(None).await;
    let info = served.get("/api/datasets/p/data/revision/main?blobs=true").await.json();
    assert_eq!(info["siblings"][0]["rfilename"], "table.parquet");
    let sha = info["sha"].as_str().unwrap();
    for revision in ["main", "1", sha] {
        let target = format!("/datasets/p/data/resolve/{revision}/table.parquet");
        assert!(served.get(&target).await.body == TABLE, "{revision}");
        let head = ask(&served, "HEAD", &target).await;
        let to = format!("/datasets/p/data/resolve/{sha}/table.parquet");
        assert_eq!(head.header("location"), (revision != sha).then_some(to.as_str()));
    }
    assert_eq!(
        names(&served.get("/api/datasets/p/data/tree/main?recursive=true").await.json()),
        [("file", "table.parquet")]
    );
    for target in [
        "/api/models/p/data",
        "/api/datasets/p/run",
        "/p/data/resolve/main/table.parquet",
        "/datasets/p/run/resolve/main/sub/config.json",
    ] {
        let answer = served.get(target).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (404, Some("RepoNotFound")), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_words_that_clients_tell_them_by() {
    let served = Served::new().await;
    served.fill(None).await;
    let nobody = "0123456789abcdef0123456789abcdef01234567";
    let cases = [
        ("p/nothing", "main", "a", "RepoNotFound"),
        ("p/Nothing", "main", "a", "RepoNotFound"),
        ("q/run", "main", "a", "RepoNotFound"),
        ("p/run", "2", "a", "RevisionNotFound"),
        ("p/run", "worst", "a", "RevisionNotFound"),
        ("p/run", nobody, "a", "RevisionNotFound"),
        ("p/run", "refs%2Fpr%2F1", "a", "RevisionNotFound"),
        ("p/run", "99999999999999999999999", "a", "RevisionNotFound"),
        ("p/run", "main", "config.json", "EntryNotFound"),
        ("p/run", "main", "sub", "EntryNotFound"),
        ("p/run", "main", "..%2f..%2fsecret", "EntryNotFound"),
    ];
    for (repo, revision, path, code) in cases {
        for method in ["GET", "HEAD"] {
            let answer = ask(&served, method, &format!("/{repo}/resolve/{revision}/{path}")).await;
            let case = format!("{method} {repo} {revision} {path}: {answer:?}");
            assert_eq!((answer.status, answer.header("x-error-code")), (404, Some(code)), "{case}");
            assert!(answer.header("x-error-message").is_some_and(|text| !text.is_empty()), "{case}");
            assert_eq!(answer.header("x-repo-commit").is_some(), code == "EntryNotFound", "{case}");
        }
        if code != "EntryNotFound" {
            for api in [format!("revision/{revision}"), format!("tree/{revision}")] {
                let answer = served.get(&format!("/api/models/{repo}/{api}")).await;
                assert_eq!((answer.status, answer.header("x-error-code")), (404, Some(code)), "{repo} {api}");
            }
        }
    }
    assert_eq!(ask(&served, "POST", "/api/models/p/run").await.status, 405);
    let past = served.ask("GET", "/p/run/resolve/main/sub/config.json", &[("Range", "bytes=99999999-")], b"").await;
    assert_eq!(past.status, 416);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_one_content_have_names_of_their_own() {
    let served = Served::new().await;
    let (store, tensors) = (served.store(None), transformer(1, Size::TINY));
    let mut shas = Vec::new();
    for step in 1..=3 {
        save(&store, spec("p", "run", step, 2), &tensors).await.unwrap();
        let info = served.get("/api/models/p/run").await.json();
        shas.push(info["sha"].as_str().unwrap().to_owned());
    }
    assert!(shas[0] != shas[1] && shas[1] != shas[2]);
    let tag = |sha: &str| format!("/p/run/resolve/{sha}/model.safetensors");
    let (first, last) = (served.get(&tag(&shas[0])).await, served.get(&tag("main")).await);
    assert_eq!((first.header("etag"), &first.body), (last.header("etag"), &last.body), "one content, one tag");
    assert_eq!((first.header("x-repo-commit"), last.header("x-repo-commit")), (Some(&*shas[0]), Some(&*shas[2])));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_decide_as_everywhere() {
    let ((stranger, mine), (reader, read)) = (token(1, "mine", Access::Admin, None), token(2, "p", Access::Read, None));
    let (owner, all) = token(3, "*", Access::Admin, None);
    let served = Served::with(Setup { tokens: vec![stranger, reader, owner], ..Setup::default() }).await;
    served.fill(Some(&all)).await;
    for target in [
        "/api/models/p/run",
        "/api/models/p/run/tree/main",
        "/p/run/resolve/main/sub/config.json",
        "/datasets/p/data/resolve/main/table.parquet",
    ] {
        let ask = async |text: &str| served.ask("GET", target, &[("Authorization", &bearer(text))], b"").await;
        let (denied, let_in, nobody) = (ask(&mine).await, ask(&read).await, served.get(target).await);
        assert_eq!((denied.status, let_in.status, nobody.status), (403, 200, 401), "{target}");
        assert!(denied.header("x-error-message").unwrap().contains("no Read access"), "{denied:?}");
        assert!(let_in.header("x-repo-commit").is_some());
    }
    for (text, status) in [(Some(&read), 404), (None, 401)] {
        let header = text.map(|text| bearer(text));
        let headers: Vec<_> = header.iter().map(|text| ("Authorization", text.as_str())).collect();
        assert_eq!(served.ask("GET", "/api/models/Qwen/Qwen2", &headers, b"").await.status, status);
    }
    let info = served.ask("GET", "/api/models/p/run", &[("Authorization", &bearer(&read))], b"").await.json();
    assert_eq!(info["private"], json!(true));
}
