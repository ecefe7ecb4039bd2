//! What is read and written, beside the documents of the specifications: references by the grammar, documents byte for
//! byte, and read by the crate `oci-spec`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use regex::Regex;
use serde_json::json;

use crate::*;

const DIGEST: &str = "sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

/// The grammar of Distribution's documentation ("Grammar" of the package `reference`), production by production. Groups
/// are the host, the path, the tag and the digest.
fn grammar() -> Regex {
    let domain_component = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let domain_name = format!("{domain_component}(?:\\.{domain_component})*");
    let host = format!("(?:{domain_name}|\\[[a-fA-F0-9:]+\\])");
    let domain = format!("{host}(?::[0-9]+)?");
    let path_component = "[a-z0-9]+(?:(?:[_.]|__|[-]+)[a-z0-9]+)*";
    let path = format!("{path_component}(?:/{path_component})*");
    let tag = "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}";
    let algorithm = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*";
    let digest = format!("{algorithm}:[0-9a-fA-F]{{32,}}");
    Regex::new(&format!("^(?:({domain})/)?({path})(?::({tag}))?(?:@({digest}))?$")).unwrap()
}

/// Whether what the grammar takes is refused beyond it, by the rules on the page of the module.
fn is_beyond(text: &str) -> bool {
    let parts = reference::Parts::of(text);
    let host = parts.has_host().then(|| parts.name.split('/').next().unwrap());
    let is_bad_digest = parts.digest.is_some_and(|digest| digest.parse::<Digest>().is_err());
    let is_bad_host = host.is_some_and(|host| {
        let (address, port) = match host.rsplit_once(':') {
            Some((address, port)) if !port.ends_with(']') => (address, Some(port)),
            _ => (host, None),
        };
        let is_bad_address = address.starts_with('[')
            && address.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>().is_err();
        is_bad_address || port.is_some_and(|port| port.parse::<u16>().is_err())
    });
    // Docker takes such a part for a path after all, and then knows of no registry.
    let is_no_host = host.is_some() && grammar().captures(text).is_some_and(|groups| groups.get(1).is_none());
    // So it does with an address in which there is no colon, and no path has brackets.
    let is_no_address = host.is_none() && parts.name.starts_with('[');
    let is_id = parts.name.len() == 64 && parts.name.bytes().all(|b| b.is_ascii_hexdigit());
    let length = parts.name.len() + if host.is_some() { 0 } else { "docker.io/library/".len() };
    is_bad_digest || is_bad_host || is_no_host || is_no_address || is_id || length > 255
}

#[test]
fn references_mean_what_they_mean_to_docker() {
    for (text, whole) in [
        ("alpine", "docker.io/library/alpine"),
        ("alpine:3.22", "docker.io/library/alpine:3.22"),
        ("acme/web", "docker.io/acme/web"),
        ("docker.io/alpine", "docker.io/library/alpine"),
        ("docker.io/acme/web", "docker.io/acme/web"),
        ("index.docker.io/alpine", "docker.io/library/alpine"),
        ("test.com:5000", "docker.io/library/test.com:5000"),
        ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080"),
        ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080"),
        ("192.168.1.1", "docker.io/library/192.168.1.1"),
        ("localhost/web", "localhost/web"),
        ("test:5000/web", "test:5000/web"),
        ("127.0.0.1:5000/web:5050", "127.0.0.1:5000/web:5050"),
        ("registry.example.com/a/b/c:1_2.3-4", "registry.example.com/a/b/c:1_2.3-4"),
        (
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "b.gcr.io/test.example.com/my-app:test.example.com",
        ),
        ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com"),
        ("[::1]:5000/web", "[::1]:5000/web"),
        ("[2001:db8::1]/web:1", "[2001:db8::1]/web:1"),
        ("Host/web", "Host/web"),
        ("lowercase:Uppercase", "docker.io/library/lowercase:Uppercase"),
        ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f"),
    ] {
        assert!(grammar().is_match(text), "{text}");
        for (text, whole) in
            [(text.to_owned(), whole.to_owned()), (format!("{text}@{DIGEST}"), format!("{whole}@{DIGEST}"))]
        {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), whole, "{text}");
            assert_eq!(serde_json::to_value(&reference).unwrap(), json!(whole));
        }
    }
    let both: Reference = format!("127.0.0.1:5000/web:1@{DIGEST}").parse().unwrap();
    assert_eq!((both.tag.as_ref().map(Tag::as_str), both.wanted().to_string().as_str()), (Some("1"), DIGEST));
    assert_eq!("alpine".parse::<Reference>().unwrap().wanted().to_string(), "latest");
}

#[test]
fn what_is_no_reference_is_refused_with_a_reason() {
    for (text, said) in [
        ("", "empty"),
        (":justtag", "empty"),
        ("Web", "capitals"),
        ("Uppercase:tag", "capitals"),
        ("example.com/Web", "capitals"),
        ("test:5000/Uppercase/lowercase:tag", "capitals"),
        ("example.com/", "empty"),
        ("a//b", "empty"),
        ("web:", "no tag"),
        ("web:.x", "no tag"),
        ("web:a b", "no tag"),
        ("web@sha256:abc", "64 digits"),
        ("web@", "digest"),
        ("web@invaliddigest:ffffffffffffffffffffffffffffffff", "sha512"),
        ("@sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b", "empty"),
        ("example.com:port/web", "port"),
        ("example.com:99999/web", "port"),
        ("-x.example.com/web", "host"),
        ("a..b/web", "host"),
        ("0_a.0/web", "host"),
        ("[2001:db8::1]", "no tag"),
        ("[fe80::1%eth0]:5000/web", "host"),
        ("[::ffff:1.2.3.4]/web", "host"),
        ("[:::]/web", "host"),
        ("[::1/web", "host"),
        ("[A/web", "host"),
        ("a___b", "no part"),
        ("a._b", "no part"),
        ("_a", "no part"),
        ("a-", "no part"),
        ("aa/asdf$$^/aa", "no part"),
        ("https://example.com/web", "host"),
        (&DIGEST[7..], "image's id"),
        (&format!("web:{}", "x".repeat(129)), "128"),
        (&format!("example.com/{}", "x".repeat(250)), "255"),
        ("a\u{1b}[31m", "no part"),
        ("a\u{202e}b", "no part"),
    ] {
        let error = text.parse::<Reference>().unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
        assert!(!error.contains(['\u{1b}', '\u{202e}']), "{error:?}");
        assert!(!grammar().is_match(text) || is_beyond(text), "{text} is one by the grammar");
    }
}

/// Texts that are references more often than not, and nearly so otherwise.
fn any_text() -> impl Strategy<Value = String> {
    let host =
        "(localhost|[a-zA-Z]{1,3}(\\.[a-z-]{1,3}){0,2}|127\\.0\\.0\\.1|\\[[0-9a-f:]{2,7}\\])(:[0-9]{0,6})?/";
    let part = "[a-z0-9]{1,3}((\\.|_|__|___|-{1,3})[a-zA-Z0-9]{1,3}){0,2}";
    let digest = prop_oneof![
        Just(DIGEST.to_owned()),
        Just(format!("sha512:{0}{0}", &DIGEST[7..])),
        "(sha256|md5|SHA256):[0-9a-fA-F]{31,65}",
    ];
    let parts = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"));
    let (host, tag) = (prop::option::of(host), prop::option::of("[a-zA-Z0-9_.-]{0,5}"));
    let whole = (host, parts, tag, prop::option::of(digest)).prop_map(|(host, parts, tag, digest)| {
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{parts}{tag}{digest}", host.unwrap_or_default())
    });
    prop_oneof![4 => whole, 1 => "[a-zA-Z0-9:/@._\\[\\]-]{0,40}", 1 => "\\PC{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_reference_is_what_the_grammar_takes(text in any_text()) {
        let parsed = text.parse::<Reference>();
        let Some(groups) = grammar().captures(&text) else {
            prop_assert!(parsed.is_err(), "{}", text);
            return Ok(());
        };
        if parsed.is_err() {
            prop_assert!(is_beyond(&text), "{}: {:?}", text, parsed);
            return Ok(());
        }
        let parsed = parsed.unwrap();
        let group = |number| groups.get(number).map(|found| found.as_str());
        prop_assert_eq!(parsed.tag.as_ref().map(Tag::as_str), group(3));
        prop_assert_eq!(parsed.digest.as_ref().map(Digest::as_str), group(4));
        let name = format!("{}/{}", parsed.host, parsed.repository);
        let written = groups.get(1).map_or(String::new(), |host| format!("{}/", host.as_str())) + &groups[2];
        prop_assert!(name.ends_with(&written), "{} of {}", name, text);
    }

    #[test]
    fn whatever_is_parsed_is_written_so_that_it_means_the_same(text in any_text()) {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn parts_are_the_whole_text(text in any_text()) {
        prop_assert_eq!(reference::Parts::of(&text).to_string(), text);
    }

    #[test]
    fn digests_are_those_of_oci_spec_that_can_be_verified(
        text in prop_oneof![Just(DIGEST.to_owned()), "(sha256|sha512|sha384|md5|a\\+b):[0-9a-f]{62,66}", "\\PC{0,9}"],
    ) {
        let ours = text.parse::<Digest>().is_ok();
        let theirs = text.parse::<oci_spec::image::Digest>();
        let is_known = ["sha256:", "sha512:"].iter().any(|algorithm| text.starts_with(algorithm));
        prop_assert_eq!(ours, theirs.is_ok() && is_known);
    }
}

fn blob(text: &str, media_type: MediaType) -> Descriptor {
    Descriptor::of(media_type, text.as_bytes())
}

fn image() -> ImageManifest {
    let layers = vec![blob("a", MediaType::ImageLayerGzip), blob("b", MediaType::ImageLayerZstd)];
    ImageManifest::image(
        blob("{}", MediaType::ImageConfig),
        layers,
        BTreeMap::from([("k".into(), "v".into())]),
    )
}

fn index() -> Index {
    let mut entry = Manifest::of(image()).descriptor();
    entry.platform = Some("linux/arm64/v8".parse().unwrap());
    entry.annotations = BTreeMap::from([(annotation::REF_NAME.to_owned(), "web:1".to_owned())]);
    Index { manifests: vec![entry], annotations: BTreeMap::new() }
}

#[test]
fn manifests_have_the_same_bytes_as_ever() {
    let config = blob("{}", MediaType::ImageConfig);
    let layers = vec![blob("a", MediaType::ImageLayerGzip), blob("b", MediaType::ImageLayerGzip)];
    let annotations = BTreeMap::from([("key".to_owned(), "value".to_owned())]);
    let image = Manifest::of(ImageManifest::image(config, layers, annotations.clone()));
    assert_eq!(
        *image.bytes(),
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb","size":1},{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d","size":1}],"annotations":{"key":"value"}}"#
    );
    let platform: Platform =
        serde_json::from_str(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).unwrap();
    let entry = Descriptor { annotations, platform: Some(platform), ..image.descriptor() };
    assert_eq!(
        *Manifest::of(Index { manifests: vec![entry], ..Index::default() }).bytes(),
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:2b1267659fbc921b1956bb5097ec3329e154d9a842ffd3d3aeddde259c905776","size":579,"annotations":{"key":"value"},"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}"#
    );
}

#[test]
fn documents_are_written_in_two_orders_each_byte_for_byte() {
    let (config, a, b) = (
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
        "sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
    );
    let written = |manifest: Manifest| String::from_utf8(manifest.bytes().to_vec()).unwrap();
    let in_order = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"{config}\",\"size\":2}},\"layers\":[{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"{a}\",\"size\":1}},{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+zstd\",\"digest\":\"{b}\",\"size\":1}}],\"annotations\":{{\"k\":\"v\"}}}}"
    );
    assert_eq!(written(Manifest::of(image())), in_order);
    let sorted = format!(
        "{{\"annotations\":{{\"k\":\"v\"}},\"config\":{{\"digest\":\"{config}\",\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"size\":2}},\"layers\":[{{\"digest\":\"{a}\",\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"size\":1}},{{\"digest\":\"{b}\",\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+zstd\",\"size\":1}}],\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"schemaVersion\":2}}"
    );
    assert_eq!(written(Manifest::sorted(image())), sorted);
    let (digest, size) = (Digest::sha256(in_order.as_bytes()), in_order.len());
    assert_eq!(
        written(Manifest::of(index())),
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{digest}\",\"size\":{size},\"annotations\":{{\"org.opencontainers.image.ref.name\":\"web:1\"}},\"platform\":{{\"architecture\":\"arm64\",\"os\":\"linux\",\"variant\":\"v8\"}}}}]}}"
        )
    );
    let artifact =
        ImageManifest::artifact("application/vnd.example+json", vec![blob("a", "text/plain".into())]);
    assert_eq!(
        written(Manifest::of(ImageManifest {
            subject: Some(blob("b", MediaType::ImageManifest)),
            ..artifact
        })),
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"artifactType\":\"application/vnd.example+json\",\"config\":{{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"digest\":\"{config}\",\"size\":2}},\"layers\":[{{\"mediaType\":\"text/plain\",\"digest\":\"{a}\",\"size\":1}}],\"subject\":{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{b}\",\"size\":1}}}}"
        )
    );
}

#[test]
fn what_is_written_is_read_back_the_same_here_and_by_oci_spec() {
    let artifact = ImageManifest {
        subject: Some(blob("x", MediaType::ImageManifest)),
        ..ImageManifest::artifact("application/vnd.example+json", vec![blob("a", "text/plain".into())])
    };
    for document in [image(), artifact] {
        for written in [Manifest::of(document.clone()), Manifest::sorted(document.clone())] {
            let media_type = Some("application/vnd.oci.image.manifest.v1+json");
            assert_eq!(Manifest::parse(written.bytes().clone(), media_type), Ok(written.clone()));
            let theirs = oci_spec::image::ImageManifest::from_reader(&written.bytes()[..]).unwrap();
            assert_eq!(theirs.artifact_type(), &document.artifact_type);
            assert_eq!(theirs.config().digest().as_ref(), document.config.digest.as_str());
            let digests: Vec<&str> = theirs.layers().iter().map(|layer| layer.digest().as_ref()).collect();
            let ours: Vec<&str> = document.layers.iter().map(|layer| layer.digest.as_str()).collect();
            assert_eq!(digests, ours);
            let subject = theirs.subject().as_ref().map(|subject| subject.digest().as_ref());
            assert_eq!(subject, document.subject.as_ref().map(|subject| subject.digest.as_str()));
        }
    }
    for written in [Manifest::of(index()), Manifest::sorted(index())] {
        assert_eq!(Manifest::parse(written.bytes().clone(), None), Ok(written.clone()));
        assert!(written.config().is_none() && written.layers().is_empty());
        let theirs = oci_spec::image::ImageIndex::from_reader(&written.bytes()[..]).unwrap();
        let platform = theirs.manifests()[0].platform().as_ref().unwrap();
        assert_eq!(platform.variant().as_deref(), Some("v8"));
        let known = written.entries().unwrap()[0].platform.as_ref().unwrap();
        assert_eq!(known.to_string(), "linux/arm64/v8");
    }
}

#[test]
fn manifests_with_two_meanings_are_refused() {
    let image =
        Manifest::of(ImageManifest::image(blob("{}", MediaType::ImageConfig), Vec::new(), BTreeMap::new()));
    let index_type = "application/vnd.oci.image.index.v1+json";
    let as_index = Manifest::parse(image.bytes().clone(), Some(index_type)).unwrap_err();
    assert!(as_index.contains("calls itself"), "{as_index}");
    let text = String::from_utf8_lossy(image.bytes()).into_owned();
    let both = text.replacen("\"layers\"", "\"manifests\":[],\"layers\"", 1);
    assert!(Manifest::parse(both, None).is_err());
    let unlabelled = text.replacen("\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",", "", 1);
    assert!(Manifest::parse(unlabelled.clone(), Some(index_type)).is_err());
    assert_eq!(*Manifest::parse(unlabelled.clone(), None).unwrap().media_type(), MediaType::ImageManifest);
    let docker = Manifest::parse(unlabelled, Some(media_type::DOCKER_MANIFEST)).unwrap();
    assert_eq!(docker.media_type().as_ref(), media_type::DOCKER_MANIFEST);
    let old = Manifest::parse("{\"schemaVersion\":1,\"fsLayers\":3,\"config\":4}", None).unwrap_err();
    assert!(old.contains("schema 1"), "{old}");
}

#[test]
fn what_a_descriptor_says_beyond_what_is_known_stays() {
    let text = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": DIGEST,
        "size": 7,
        "urls": ["https://example.com/layer"],
        "platform": { "os": "windows", "architecture": "amd64", "os.version": "10.0", "os.features": ["win32k"] },
    });
    let descriptor: Descriptor = serde_json::from_value(text.clone()).unwrap();
    assert!(descriptor.is_elsewhere() && descriptor.is_for("windows/amd64"));
    assert_eq!(serde_json::to_value(&descriptor).unwrap(), text);
}

#[test]
fn a_chain_id_names_the_layers_below_too() {
    let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
    assert_eq!(chain_id(None, &a), a);
    assert_eq!(chain_id(Some(&a), &b), Digest::sha256(format!("{a} {b}").as_bytes()));
}
