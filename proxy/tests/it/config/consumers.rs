//! Consumers and what they show.

use super::{check_addition, messages, routes::check_route, valid, with};

#[test]
fn credentials_stand_among_the_consumers() {
    let config = valid(&with(
        "consumers:\n\
         \x20 - { id: a/credentials/c-1, plugins: { key-auth: { key: one } }, desc: d, name: n }\n\
         \x20 - { username: a, plugins: { key-auth: { key: two } } }\n\
         \x20 - { id: a/credentials/c-2, plugins: { basic-auth: { username: a, password: p } } }\n",
    ));
    let [consumer] = &*config.consumers else { panic!("one consumer") };
    let names = consumer.credentials.iter().map(|one| one.name.as_ref()?.to_str().ok());
    assert_eq!(names.collect::<Vec<_>>(), [None, Some("c-1"), Some("c-2")]);
    check_addition(
        "consumers:\n\
         \x20 - { username: a, plugins: { key-auth: { key: s3cret } } }\n\
         \x20 - { username: b }\n\
         \x20 - { id: a/credentials/c, plugins: { key-auth: { key: s3cret } } }\n\
         \x20 - { id: b/credentials/c, plugins: { key-auth: { key: s3cret } } }\n\
         \x20 - { id: a/credentials/c, plugins: { key-auth: { key: x }, basic-auth: { username: a, password: p } } }\n\
         \x20 - { id: d/credentials/c, plugins: { limit-count: { count: 1, time_window: 1 } } }\n\
         \x20 - { id: a/credentials/b/c, plugins: {}, username: a }\n\
         \x20 - { id: b/credentials/d }\n",
        &[
            "7:56: consumers[2].plugins.key-auth.key: consumer `a` has the same key-auth credential; \
             say it once",
            "8:56: consumers[3].plugins.key-auth.key: consumer `a` has the same key-auth credential; \
             it belongs to one consumer",
            "9:11: consumers[4].id: is the id of line 7 too; ids are unique",
            "9:37: consumers[4].plugins: needs one plugin; a further one has a credential of its own",
            "10:11: consumers[5].id: no consumer is named `d`",
            "10:39: consumers[5].plugins: only supports auth type plugins in consumer \
             credential",
            "11:11: consumers[6].id: expected `USERNAME/credentials/ID`, both as consumers and ids \
             are named, found `a/credentials/b/c`",
            "11:39: consumers[6].plugins: needs one plugin; a further one has a credential of its own",
            "11:43: consumers[6].username: unknown key; known here: `name`, `desc`, `create_time`, \
             `update_time`, `labels`, `id` or `plugins`",
            "12:5: consumers[7]: `plugins` is missing",
        ],
    );
}

#[test]
fn consumers_have_their_own_names_and_keys() {
    check_addition(
        "consumers:\n\
         \x20 - { username: alice, plugins: { key-auth: { key: s3cret-one } } }\n\
         \x20 - { username: alice, plugins: { key-auth: { key: s3cret-two } } }\n\
         \x20 - { username: bob, plugins: { key-auth: { key: s3cret-one } } }\n\
         \x20 - { username: 'a b', group_id: 1 }\n",
        &[
            "6:17: consumers[1].username: the consumer of line 5 has this name; names are unique",
            "7:50: consumers[2].plugins.key-auth.key: consumer `alice` has the same key-auth \
             credential; it belongs to one consumer",
            "8:17: consumers[3].username: expected a name of 1 to 256 letters, digits, `-` or \
             `_`, found the string `a b`",
            "8:34: consumers[3].group_id: no consumer group has the id `1`",
        ],
    );
}

#[test]
fn keys_of_consumers_are_in_no_message_and_no_debug_output() {
    const SECRET: &str = "s3cret";
    for plugins in [
        "s3cret",
        "[s3cret]",
        "{ s3cret: 1 }",
        "{ key-auth: s3cret }",
        "{ key-auth: [s3cret] }",
        "{ key-auth: { s3cret } }",
        "{ key-auth: { s3cret: 1, s3cret: 2 } }",
        "{ key-auth: { key: [s3cret] } }",
        "{ key-auth: { key: ' s3cret' } }",
        "{ key-auth: { key: \"s3cret\\n\" } }",
        "{ key-auth: { key: s3cret, kee: s3cret } }",
        "{ key-auth: { key: s3cret, header: s3cret } }",
    ] {
        for whose in ["username: a", "id: a/credentials/b"] {
            let text =
                messages(&with(&format!("consumers: [{{ {whose}, plugins: {plugins} }}]\n")));
            assert!(!text.contains(SECRET), "{plugins}: {text}");
        }
    }
    let config =
        valid(&with("consumers: [{ username: a, plugins: { key-auth: { key: s3cret } } }]\n"));
    let text = format!("{config:?}");
    assert!(!text.contains(SECRET) && text.contains("Credential { kind: \"key-auth\""), "{text}");
}

#[test]
fn key_auth_takes_what_apisix_takes() {
    check_route(
        "    uri: /\n    plugins: { key-auth: { header: 'a b', query: 'a&b', realm: '\"', \
         hide_credentials: 'yes', anonymous_consumer: '' } }\n",
        &[
            "7:36: routes[0].plugins.key-auth.header: is not the name of a field",
            "7:50: routes[0].plugins.key-auth.query: is not the name of a query argument",
            "7:64: routes[0].plugins.key-auth.realm: needs 1 to 128 printable characters but `\"` \
             and `\\`",
            "7:87: routes[0].plugins.key-auth.hide_credentials: expected `true` or `false`, found \
             the string `yes`",
            "7:114: routes[0].plugins.key-auth.anonymous_consumer: no consumer is named ``",
        ],
    );
    for header in ["Content-Length", "transfer-encoding", "host", "via", "x-forwarded-for"] {
        check_route(
            &format!("    uri: /\n    plugins: {{ key-auth: {{ header: {header} }} }}\n"),
            &[
                "7:36: routes[0].plugins.key-auth.header: is a field that the proxy makes itself; use \
               one of its own",
            ],
        );
    }
    check_route(
        "    uri: /\n    plugins: { key-auth: }\n",
        &["7:24: routes[0].plugins.key-auth: expected a mapping, found nothing"],
    );
}
