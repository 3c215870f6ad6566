//! Page tokens of List and ListTokens. A token that the service did not make is refused, or leads to a
//! part of the same list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_proto::v1;
use keyward_testkit::requests::{creating_token, listing, slot};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::Target;
use crate::world::World;

/// The first byte chooses the list and the size of the page. The rest is the token, or what follows
/// the fingerprint of the query in a token.
pub fn target() -> Target {
    let mut world = World::start();
    for name in ["a", "b", "c", "d", "e"] {
        let request = v1::IssueRequest {
            name: name.to_owned(),
            ..slot("42")
        };
        let issued: Result<v1::IssueResponse, _> = world.ask("ApiKeyService/Issue", &request);
        issued.expect("a key can be issued");
        let request = creating_token(name, &[v1::Role::Reader]);
        let created: Result<v1::CreateTokenResponse, _> =
            world.ask("AdminService/CreateToken", &request);
        created.expect("a token can be created");
    }
    let lists = [0, 1, 2, 3].map(|list| {
        let (all, _) = page(&mut world, list, 0, "").expect("a list");
        let (_, next) = page(&mut world, list, 1, "").expect("a page");
        let token = URL_SAFE_NO_PAD.decode(next).expect("a token is base64");
        (all, token[..8].to_vec())
    });
    Box::new(move |data| {
        let Some((choice, rest)) = data.split_first() else {
            return;
        };
        let list = choice % 4;
        let (all, fingerprint) = &lists[usize::from(list)];
        let token = match choice & 4 {
            0 => String::from_utf8_lossy(rest).into_owned(),
            _ => URL_SAFE_NO_PAD.encode([fingerprint, rest].concat()),
        };
        let size = i32::from(choice >> 3);
        match page(&mut world, list, size, &token) {
            Ok((ids, next)) => {
                let is_part = ids.is_empty() || all.windows(ids.len()).any(|part| part == ids);
                assert!(is_part, "{ids:?} is no part of {all:?}");
                let (after, _) = match next.as_str() {
                    "" => return,
                    next => page(&mut world, list, size, next).expect("its own token"),
                };
                assert!(after.first() > ids.last(), "a page repeats a key");
            }
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                let details = status.get_error_details();
                let violations = details.bad_request().expect("a field is named");
                assert_eq!(violations.field_violations[0].field, "page_token");
            }
        }
    })
}

/// The ids on a page of one of the four lists, and the token of the next page.
fn page(
    world: &mut World,
    list: u8,
    page_size: i32,
    page_token: &str,
) -> Result<(Vec<String>, String), Status> {
    let (page_token, include_revoked) = (page_token.to_owned(), list % 2 == 1);
    if list < 2 {
        let request = v1::ListRequest {
            include_revoked,
            page_size,
            page_token,
            ..listing("42")
        };
        let answer: v1::ListResponse = world.ask("ApiKeyService/List", &request)?;
        let ids = answer.keys.into_iter().map(|key| key.key_id);
        return Ok((ids.collect(), answer.next_page_token));
    }
    let request = v1::ListTokensRequest {
        include_revoked,
        page_size,
        page_token,
    };
    let answer: v1::ListTokensResponse = world.ask("AdminService/ListTokens", &request)?;
    let ids = answer.caller_tokens.into_iter().map(|token| token.token_id);
    Ok((ids.collect(), answer.next_page_token))
}
