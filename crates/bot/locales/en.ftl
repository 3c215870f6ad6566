# The texts of the bot in English. Texts are HTML for Telegram; buttons, answers and commands are plain.

## Screens

menu-text =
    <b>API access</b>

    This bot shows you the API key of your account <code>{ $account }</code> and lets you replace it.
account-text =
    <b>User info</b>

    Account: <code>{ $account }</code>
    Telegram ID: <code>{ $user }</code>
not-registered =
    <b>No account yet</b>

    Your Telegram account isn't linked to an account here, so you have no API key. Register first, then press Retry.
account-unknown = We can't check which account is yours right now, so we did nothing. Please try again.
key-title = <b>Your API key</b> (tap to copy)
key-warning = Anyone who has this key can act on behalf of your account. Never share it or paste it into chats, screenshots or public code.
key-once = This key is shown only once. Copy it now: neither you nor this bot can see it again.
key-hides-minutes = { $minutes ->
        [one] For your security, this key will be hidden in { $minutes } minute.
       *[other] For your security, this key will be hidden in { $minutes } minutes.
    }
key-hides-seconds = { $seconds ->
        [one] For your security, this key will be hidden in { $seconds } second.
       *[other] For your security, this key will be hidden in { $seconds } seconds.
    }
key-not-shown =
    <b>Your API key</b> <code>{ $hint }…</code>

    This key was shown only once, when it was created, and can't be shown again. If you've lost it, revoke it to get a new one.
key-disabled =
    <b>Your API key</b> <code>{ $hint }…</code>

    This key is disabled, so nothing that uses it works right now. Revoking it won't change that.
key-hidden =
    <b>Your API key</b> <code>{ $hint }…</code>

    Hidden for your security.
key-gone =
    <b>Old API key</b> <code>{ $hint }…</code>

    This key no longer works.
key-dead =
    <b>Revoked API key</b> <code>{ $hint }…</code>

    This key stopped working on { $time }.
key-dead-grace =
    <b>Revoked API key</b> <code>{ $hint }…</code>

    This key stops working on { $time }. Until then it works as before.
ask-text =
    <b>Revoke this key?</b>

    Everything that uses this key stops working: your programs, scripts and integrations. You then get a new key. They work again once you give it to them. You can't undo this.
ask-grace = { $hours ->
        [one] Need time to switch your programs? You can keep the old key for { $hours } hour and get the new key now. If someone else may have the old key, press Confirm instead.
       *[other] Need time to switch your programs? You can keep the old key for { $hours } hours and get the new key now. If someone else may have the old key, press Confirm instead.
    }
ask-hint = Key: <code>{ $hint }…</code>
ask-used-now = Last known use: a moment ago.
ask-used-minutes = { $minutes ->
        [one] Last known use: { $minutes } minute ago.
       *[other] Last known use: { $minutes } minutes ago.
    }
ask-used-hours = { $hours ->
        [one] Last known use: { $hours } hour ago.
       *[other] Last known use: { $hours } hours ago.
    }
ask-used-days = { $days ->
        [one] Last known use: { $days } day ago.
       *[other] Last known use: { $days } days ago.
    }
old-key-tried = After your old key stopped working, someone tried it, last on { $time }. Check that all your programs have the new key.
revoking-text = Revoking the key… This can take up to a minute. If you don't get an answer, press Retry. Retry never creates a second key.
unclear-unconfirmed =
    <b>Not finished yet</b>

    The key is being revoked, but we can't confirm yet that it has stopped working everywhere. It may still work in some places for a while. Press Retry until the revocation is confirmed. Retry never creates a second key.
unclear-unknown =
    <b>Result unknown</b>

    The service didn't answer. The old key may still work, or it may have stopped working, so don't rely on it. Press Retry to try again. Retry never creates a second key.
unclear-busy =
    <b>Result not known yet</b>

    Many people are opening their keys right now, so we can't show you the result yet. The old key may still work, or it may have stopped working, so don't rely on it. Press Retry in a minute. Retry never creates a second key.
unclear-fault =
    <b>Result unknown</b>

    The service doesn't accept requests from this bot right now. The old key may still work, or it may have stopped working, so don't rely on it. Press Retry later. Retry never creates a second key.
busy-text = Many people are opening their keys right now, so we can't show you yours. Please try again in a minute.
unavailable-text = We can't reach the service right now. Please try again.
present-unavailable = We can't show your current key right now. Please try again.
fault-text = The service doesn't accept requests from this bot right now. The problem isn't you or your key. Please try again later.
support-text = If this keeps happening, contact { $contact }.
limited-reveals = { $minutes ->
        [one] You've opened your key too often. For your security, you can see it again in { $minutes } minute.
       *[other] You've opened your key too often. For your security, you can see it again in { $minutes } minutes.
    }
limited-revokes = { $minutes ->
        [one] You've replaced your key too often, so nothing was changed. You can revoke it again in { $minutes } minute.
       *[other] You've replaced your key too often, so nothing was changed. You can revoke it again in { $minutes } minutes.
    }
help-text =
    <b>What this bot does</b>

    /start – main menu
    /apikey – your API key
    /help – this help

    The bot doesn't read your messages. Please use the buttons.
group-text = API keys are shown only in a private chat with this bot.

## Notes above a screen

note-replaced = <b>Here is your new key.</b> The old key stopped working on { $time }.
note-replaced-grace = <b>Here is your new key.</b> The old key stops working on { $time }. Until then it works as before.
note-already = The key in that message was already revoked. It stopped working on { $time }.
note-already-grace = The key in that message was already revoked. It stops working on { $time }. Until then it works as before.
note-expired = The key in that message had already expired, so there was nothing to revoke.
note-unknown-key = The key in that message no longer exists.
note-changed = The key in that message is no longer the current key of your account.
note-current = Here is your current key:
note-cancelled = Nothing was changed.
note-late = Your answer reached us too late, so nothing was changed. If you still want to revoke the key, please confirm again.
note-old-button = That button is from an older version of this bot. Please continue here.
note-other-place = That button is about another account or key, so we did nothing. This is your account now:

## Answers to a tap, without markup

answer-not-yours = This button isn't yours. Send /start to get your own.
answer-private-only = API keys are shown only in a private chat with this bot.
failed-text = Something went wrong on our side. Please try again.

## Buttons

button-account = 👤 User Info
button-key = 🔑 API key
button-copy = 📋 Copy
button-revoke = ♻️ Revoke
button-confirm = ✅ Confirm
button-grace = { $hours ->
        [one] ⏳ Keep for { $hours } hour
       *[other] ⏳ Keep for { $hours } hours
    }
button-cancel = ✖️ Cancel
button-back = ‹ Back
button-retry = 🔄 Retry
button-show-again = 👁 Show again
button-open = Open the bot

## The list of commands

command-start = Main menu
command-apikey = Show your API key
command-help = What this bot does
