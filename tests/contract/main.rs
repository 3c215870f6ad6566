//! The contract of every store, tested on each backend. A case takes a [`World`] (a new store, its
//! clock, and connections for manual SQL); its name states the claim.
//!
//! To add a backend, implement [`Backend`] and add a line at the end of this file. If a case cannot
//! hold on the backend, exclude it, or its whole group, in that line with the reason:
//!
//! ```text
//! contract!(postgres => crate::backends::postgres::fresh,
//!     except by_hand::a_replacing_insert_is_refused: "there is no REPLACE");
//! ```
//!
//! To add a case, write it and add it to the list below. A case that is not listed is dead code,
//! which the lints refuse.

#![cfg(test)]

mod audit;
mod audit_chain;
mod backends;
mod by_hand;
mod doubles;
mod durability;
mod erase;
mod fixed;
mod hand;
mod import;
mod issue;
mod keyring;
mod lists;
mod log;
mod outbox;
mod reads;
mod revoke;
mod sequences;
mod several;
mod time;
mod tokens;
mod update;
mod uses;
mod values;
mod webhooks;
mod world;

use world::{Backend, World};

/// One test for each case, on the backend that `$fresh` creates.
macro_rules! contract {
    ($backend:ident => $fresh:path
     $(, except $group:ident $(:: $excluded:ident)? : $reason:literal)* $(,)?) => {
        // An exclusion must name an existing case.
        $(const _: () = {
            #[expect(unused_imports, reason = "the import checks the name")]
            use crate::$group $(::$excluded)? as _;
        };)*
        tests! { $backend $fresh,
            [$((concat!(stringify!($group) $(, "::", stringify!($excluded))?), $reason)),*];
            issue {
                a_new_key_is_stored_completely
                the_key_of_a_slot_is_returned_again
                a_disabled_key_is_returned_as_it_is
                an_expired_key_is_revoked_and_replaced
                a_slot_is_free_again_after_a_revoke
                slots_and_accounts_are_separate
                concurrent_calls_for_one_slot_give_one_key
                concurrent_calls_for_an_expired_slot_give_one_successor
                ids_and_digests_are_unique
            }
            revoke {
                an_unknown_key_is_not_found
                a_key_is_revoked_by_its_id
                a_key_is_revoked_by_its_digest
                a_revoked_key_does_not_change
                a_successor_inherits_everything_but_the_secret
                a_successor_with_a_lifetime_begins_a_life_of_its_own
                a_repeated_replace_returns_the_same_successor
                a_key_revoked_without_successor_never_gets_one
                concurrent_replaces_of_one_key_give_one_successor
                an_expired_key_is_not_replaced
                an_expired_key_is_revoked
                the_slot_is_free_at_once_during_a_grace
                a_grace_is_shortened_and_never_lengthened
                a_later_revoke_ends_a_grace_and_keeps_the_successor
                the_first_reason_is_kept
                the_sealed_copy_is_wiped
                an_account_is_revoked_at_once
                an_account_with_many_keys_lists_a_hundred_and_counts_all
                a_large_account_is_revoked_in_steps_between_which_others_write
                an_account_without_keys_is_done
                an_account_revoked_again_returns_its_latest_change
                revoking_an_account_ends_graces
                a_successor_is_returned_in_its_current_state
            }
            import {
                an_imported_key_is_stored_completely
                the_log_names_caller_and_batch_of_an_import
                an_insert_of_an_imported_key_is_logged
                a_known_key_stays_as_it_is_under_every_scheme
                an_import_again_waits_for_the_first_one
                a_key_twice_in_one_call_is_stored_once
                a_slot_with_another_key_is_not_taken
                a_dry_run_changes_nothing
                concurrent_imports_store_each_key_once
                a_batch_is_revoked_in_steps
                an_imported_key_is_revoked_and_replaced_by_its_id
            }
            update {
                each_field_is_changed_alone
                an_expiry_is_set_and_removed
                an_update_without_effect_returns_the_last_change
                an_unknown_key_is_not_found
                a_revoked_key_is_refused_also_in_its_grace
                an_expired_key_is_refused
            }
            log {
                a_start_is_cold_at_the_head
                each_start_has_another_epoch
                a_tail_gives_the_rows_after_it_with_their_marks
                a_tail_beyond_the_head_finds_no_mark
                the_mark_on_a_row_is_the_one_in_the_log
                the_log_keeps_actor_and_reason
                concurrent_changes_are_in_commit_order_without_gaps
                a_change_rolled_back_leaves_no_gap
                a_tail_far_behind_reads_one_page
                a_trim_keeps_rows_younger_than_a_day
                a_trim_keeps_the_last_row
                a_trim_is_a_bounded_step
                a_trim_of_a_new_log_does_nothing
                an_incarnation_raised_by_hand_is_seen_at_once
            }
            by_hand {
                every_change_of_a_record_is_logged
                every_row_of_a_statement_is_logged
                a_delete_is_logged
                an_insert_is_not_logged
                columns_outside_the_record_are_not_logged
                immutable_columns_cannot_change
                a_revoked_key_cannot_be_revived
                a_revocation_by_hand_is_a_fact_when_its_time_has_come
                a_slot_holds_one_key_without_revoke_time
                a_replacing_insert_is_refused
                the_sealed_copy_is_wiped_in_the_same_transaction
                the_log_cannot_be_rewritten
                a_row_inserted_into_the_log_leaves_no_gap
                the_counter_of_the_log_cannot_be_changed
                the_state_of_the_log_only_rises
                the_time_of_the_store_never_falls
            }
            fixed {
                a_revoked_key_gets_no_sealed_copy
                the_last_change_of_a_key_is_not_set_by_hand
                the_last_change_of_a_token_is_not_set_by_hand
            }
            reads {
                a_key_is_found_by_its_digest
                many_keys_are_found_in_the_order_of_their_digests
                an_absent_digest_has_the_stamp_of_the_head
                a_key_is_read_with_its_sealed_copy
                a_stamp_is_the_head_of_the_snapshot_that_read_the_record
                an_open_transaction_is_neither_visible_nor_blocking
                a_long_read_blocks_nothing
                an_invalid_record_is_an_error
                prefixes_that_are_not_accepted_are_counted
            }
            lists {
                keys_are_listed_page_by_page_in_order_of_creation
                a_list_omits_revoked_keys
                keys_are_listed_by_their_age
                keys_are_listed_by_their_state
                keys_are_listed_by_their_last_use
                keys_are_listed_by_the_start_of_their_names
                a_list_ends_early_after_many_keys_that_do_not_fit
            }
            uses {
                the_latest_times_and_the_sum_stay
                a_time_ahead_of_the_store_is_cut
                the_use_of_an_unknown_key_is_ignored
                noting_use_changes_no_key_and_logs_nothing
                a_locked_key_can_be_used
                concurrent_notes_add_up
                an_erased_key_has_no_use
                a_deleted_key_has_no_use
                a_predecessor_is_found
            }
            webhooks {
                nothing_is_written_without_a_webhook
                each_webhook_gets_the_events_that_it_wants
                each_new_end_of_a_key_is_told_once
                an_expired_key_that_is_replaced_is_told
                an_account_has_an_event_for_each_key
                an_import_writes_no_event
                a_change_by_hand_writes_an_event
                a_failed_change_writes_no_event
                a_refused_key_is_told_once_a_day
                a_key_that_expires_soon_is_told_once
                an_expiry_waits_for_a_webhook_that_gets_it
                a_step_looks_at_few_keys_that_expire
                an_erasure_leaves_no_account_in_events
            }
            outbox {
                an_event_waits_for_the_one_before_it
                events_that_wait_hide_no_others
                concurrent_claims_take_different_events
                a_claim_without_an_end_is_taken_over
                waiting_events_survive_a_reopening
                the_status_tells_what_waits
                dead_events_are_replayed
                a_replay_begins_after_an_event
                a_replay_makes_earlier_claims_void
                replayed_events_wait_only_for_each_other
                an_attempt_that_is_noted_twice_counts_once
                an_event_that_waits_for_too_long_is_dead
                old_notices_are_trimmed_in_steps
                a_gone_receiver_gets_nothing_until_a_replay
                old_events_are_trimmed
                a_webhook_that_nobody_names_is_forgotten
            }
            several {
                the_oldest_is_read
                the_oldest_is_revoked
            }
            tokens {
                a_token_is_stored_completely
                an_absent_token_has_the_stamp_of_the_head
                a_token_is_revoked_once
                a_token_with_a_later_end_is_revoked_at_once
                an_unknown_token_is_none
                tokens_and_keys_share_one_log
                tokens_are_listed_page_by_page_in_order_of_creation
                tokens_that_expired_long_ago_can_be_left_out
                a_token_expires_by_the_time_of_the_store
                a_name_of_a_certificate_is_free_again_after_its_revocation
                has_tokens_stays_true_after_a_revocation
                has_admin_is_true_until_the_last_admin_is_revoked
                ids_and_digests_are_unique
                a_change_by_hand_is_logged
                a_revoked_token_cannot_be_revived
                a_replacing_insert_is_refused
            }
            audit {
                an_audit_entry_is_stored_completely
                each_change_has_an_audit_entry
                a_call_without_effect_has_no_audit_entry
                a_change_fails_if_its_audit_entry_cannot_be_written
                an_audit_entry_cannot_be_changed
                a_replacing_insert_is_refused
            }
            audit_chain {
                seals_cover_all_events_and_are_right
                a_seal_waits_for_its_pause
                concurrent_sealers_make_one_chain
                each_planted_change_is_found
                an_event_that_commits_late_is_sealed_by_the_next_seal
                many_events_are_sealed_in_several_seals
                seals_of_an_earlier_key_are_checked_with_it
                an_erasure_is_no_alteration
                old_events_are_trimmed_by_whole_seals
                nothing_but_trimming_deletes_events_and_seals
                events_are_listed_by_condition_and_page
            }
            keyring {
                check_values_are_returned
                a_check_value_is_never_replaced
                the_key_activated_last_is_active
                an_unknown_or_retired_key_is_not_activated
                a_key_that_nothing_needs_is_retired
                a_needed_key_is_not_retired
                nothing_is_made_with_a_retired_key
                sealed_copies_move_without_a_change_of_the_record
            }
            erase {
                an_erased_account_leaves_no_personal_data
                a_key_that_is_not_revoked_is_not_erased
                a_large_account_is_erased_in_steps
                only_an_erasure_changes_the_account_of_a_key
            }
            time {
                stored_times_never_fall
                time_runs_on_while_the_wall_clock_is_behind
                time_runs_on_after_a_reopening_with_the_wall_clock_behind
                a_key_found_expired_stays_expired
                a_key_expires_at_its_time
                a_grace_ends_at_its_time
                an_ended_grace_stays_ended
                a_revocation_outlives_the_clock_that_it_was_made_by
                an_ended_grace_becomes_a_revocation
                a_lowered_time_keeps_no_event_back
            }
            durability {
                everything_survives_a_reopening
                answered_changes_survive_without_a_clean_close
            }
        }
    };
}

macro_rules! tests {
    ($backend:ident $fresh:path, $except:expr; $($group:ident { $($case:ident)* })*) => {
        mod $backend { $( mod $group { $(
            #[test]
            fn $case() {
                let name = concat!(stringify!($group), "::", stringify!($case));
                crate::run(name, &$except, $fresh, crate::$group::$case);
            }
        )* } )* }
    };
}

/// Runs one case on a new backend, unless it is excluded.
fn run<B: Backend, F: Future<Output = ()>>(
    name: &str,
    except: &[(&str, &str)],
    fresh: impl AsyncFnOnce() -> B,
    case: impl FnOnce(World) -> F,
) {
    let is_excluded = |excluded: &str| {
        let rest = name.strip_prefix(excluded);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if let Some((_, reason)) = except.iter().find(|(excluded, _)| is_excluded(excluded)) {
        println!("excluded on this backend: {reason}");
        return;
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { case(World::new(fresh().await).await).await });
}

contract!(sqlite => crate::backends::sqlite::fresh,
    except uses::a_locked_key_can_be_used: "a transaction locks the whole database",
);

contract!(postgres => crate::backends::postgres::fresh,
    except revoke::a_large_account_is_revoked_in_steps_between_which_others_write: "a call is one transaction",
    except log::a_start_is_cold_at_the_head: "a start is at pruned_to, before the rows of the log",
    except log::each_start_has_another_epoch: "the epoch belongs to the database, not to a process",
    except by_hand::a_replacing_insert_is_refused: "there is no REPLACE",
    except by_hand::the_time_of_the_store_never_falls: "there is no store_clock; `time_floor` has a case of its own",
    except tokens::a_replacing_insert_is_refused: "there is no REPLACE",
    except audit::a_replacing_insert_is_refused: "there is no REPLACE",
    except time::time_runs_on_while_the_wall_clock_is_behind: "the time stands still until the server's clock has caught up",
    except time::time_runs_on_after_a_reopening_with_the_wall_clock_behind: "the time stands still until the server's clock has caught up",
);

contract!(memory => crate::backends::memory::fresh,
    except revoke::a_large_account_is_revoked_in_steps_between_which_others_write: "a call is one transaction",
    except log::a_start_is_cold_at_the_head: "a start is at pruned_to, before the rows of the log",
    except log::each_start_has_another_epoch: "the epoch belongs to the database, not to a process",
    except import::an_insert_of_an_imported_key_is_logged: "there is no SQL",
    except import::the_log_names_caller_and_batch_of_an_import: "reads by SQL",
    except log::the_mark_on_a_row_is_the_one_in_the_log: "reads by SQL",
    except log::the_log_keeps_actor_and_reason: "reads by SQL",
    except log::a_change_rolled_back_leaves_no_gap: "there are no transactions by hand",
    except log::a_tail_far_behind_reads_one_page: "writes by SQL",
    except by_hand: "there is no SQL",
    except fixed: "there is no SQL",
    except reads::an_open_transaction_is_neither_visible_nor_blocking: "there are no transactions by hand",
    except reads::a_long_read_blocks_nothing: "there are no transactions by hand",
    except reads::an_invalid_record_is_an_error: "writes by SQL",
    except lists::a_list_ends_early_after_many_keys_that_do_not_fit: "writes by SQL",
    except uses::noting_use_changes_no_key_and_logs_nothing: "reads by SQL",
    except uses::a_locked_key_can_be_used: "there are no transactions by hand",
    except uses::a_deleted_key_has_no_use: "there is no SQL",
    except webhooks::a_change_by_hand_writes_an_event: "there is no SQL",
    except webhooks::an_erasure_leaves_no_account_in_events: "reads by SQL",
    except log::a_trim_is_a_bounded_step: "writes by SQL",
    except tokens::a_token_with_a_later_end_is_revoked_at_once: "writes by SQL",
    except time::an_ended_grace_becomes_a_revocation: "writes by SQL",
    except tokens::a_change_by_hand_is_logged: "there is no SQL",
    except tokens::a_revoked_token_cannot_be_revived: "there is no SQL",
    except tokens::a_replacing_insert_is_refused: "there is no REPLACE",
    except audit::an_audit_entry_is_stored_completely: "reads by SQL",
    except audit::each_change_has_an_audit_entry: "reads by SQL",
    except audit::a_change_fails_if_its_audit_entry_cannot_be_written: "an entry is always written",
    except audit::an_audit_entry_cannot_be_changed: "there is no SQL",
    except audit::a_replacing_insert_is_refused: "there is no REPLACE",
    except audit_chain::each_planted_change_is_found: "there is no SQL",
    except audit_chain::an_event_that_commits_late_is_sealed_by_the_next_seal: "writes by SQL",
    except audit_chain::many_events_are_sealed_in_several_seals: "writes by SQL",
    except audit_chain::nothing_but_trimming_deletes_events_and_seals: "there is no SQL",
    except erase::an_erased_account_leaves_no_personal_data: "reads by SQL",
    except erase::a_large_account_is_erased_in_steps: "writes by SQL",
    except erase::only_an_erasure_changes_the_account_of_a_key: "there is no SQL",
    except time::stored_times_never_fall: "reads by SQL",
    except time::time_runs_on_while_the_wall_clock_is_behind: "the store's time is the database's clock",
    except time::time_runs_on_after_a_reopening_with_the_wall_clock_behind: "the store's time is the database's clock",
    except time::a_key_found_expired_stays_expired: "the store's time is the database's clock",
    except time::an_ended_grace_stays_ended: "the store's time is the database's clock",
    except time::a_lowered_time_keeps_no_event_back: "nobody lowers its time",
    except webhooks::a_step_looks_at_few_keys_that_expire: "writes by SQL",
    except outbox::old_notices_are_trimmed_in_steps: "writes by SQL",
);
