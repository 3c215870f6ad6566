# What the bot says, in English. Text is HTML as Telegram takes it; buttons, answers and commands
# are plain.

## Screens

menu-text =
    <b>API access</b>

    This bot shows you the API key of your account <code>{ $account }</code>, and replaces it when you say so.
account-text =
    <b>User info</b>

    Account: <code>{ $account }</code>
    Telegram ID: <code>{ $user }</code>
key-title = <b>Your API key</b> (tap to copy)
key-warning = ⚠️ Whoever holds this key can spend the balance of your account. Give it to nobody, and put it into no chat, screenshot or public code.
key-once = This key is shown only this one time. Copy it now: neither you nor this bot can see it again.
key-hides-minutes = { $minutes ->
        [one] It is hidden in this chat after { $minutes } minute.
       *[other] It is hidden in this chat after { $minutes } minutes.
    }
key-hides-seconds = { $seconds ->
        [one] It is hidden in this chat after { $seconds } second.
       *[other] It is hidden in this chat after { $seconds } seconds.
    }
key-not-shown =
    <b>Your API key</b> <code>{ $hint }…</code>

    This key was shown only once, when it was made, and nobody can show it again. If you no longer have it, revoke it: you get a new one.
key-disabled =
    <b>Your API key</b> <code>{ $hint }…</code>

    This key is switched off at the moment: nothing that uses it works. Revoking it would not change that.
key-hidden =
    <b>Your API key</b> <code>{ $hint }…</code>

    Hidden for safety.
key-gone =
    <b>Old API key</b> <code>{ $hint }…</code>

    It does not work any more.
key-dead =
    <b>Revoked API key</b> <code>{ $hint }…</code>

    It has been dead since { $time }.
ask-text =
    <b>Revoke this key?</b>

    Everything that uses it stops working at once: your programs, trading bots and integrations, until you give them the new key. This cannot be undone.
ask-hint = Key: <code>{ $hint }…</code>
revoking-text = Revoking the key… This can take up to a minute. If no answer comes, press Retry. No second key will be made.
unclear-unconfirmed =
    <b>Not finished yet</b>

    The key is being revoked, but it is not yet certain that it is dead everywhere: it may still work somewhere for a while. Press Retry until it is confirmed. No second key will be made.
unclear-unknown =
    <b>The outcome is not known</b>

    The service did not answer, so the old key may be dead or may still work: do not rely on either. Press Retry to ask again. No second key will be made.
unavailable-text = The service cannot be reached at the moment. Please try again.
present-unavailable = Your present key cannot be shown at the moment. Please try again.
fault-text = The service refuses this bot at the moment. This is not a fault of yours or of your key. Please try again later.
support-text = If it stays so, write to { $contact }.
limited-reveals = { $minutes ->
        [one] You have opened your key very often. For safety it can be shown again in { $minutes } minute.
       *[other] You have opened your key very often. For safety it can be shown again in { $minutes } minutes.
    }
limited-revokes = { $minutes ->
        [one] You have replaced your key very often. Nothing was changed now. You can revoke again in { $minutes } minute.
       *[other] You have replaced your key very often. Nothing was changed now. You can revoke again in { $minutes } minutes.
    }
help-text =
    <b>What this bot does</b>

    /start – the main menu
    /apikey – your API key
    /help – this text

    The bot does not read your messages. Use the buttons.
group-text = API keys are shown only in a private chat with this bot.

## What happened before

note-replaced = ✅ <b>Your new key.</b> The old one has been dead since { $time }.
note-already = ℹ️ The key of that message was already revoked: it has been dead since { $time }. This is how things are now:
note-expired = ℹ️ The key of that message had expired, so it was not revoked but succeeded. This is how things are now:
note-unknown-key = ℹ️ The key of that message does not exist any more. This is how things are now:
note-cancelled = Nothing was changed.
note-changed = ℹ️ That message is about a key that is no longer the key of your account. This is how things are now:
note-old-button = ℹ️ That button is from an older version of this bot. Please go on from here.

## Answers to a tap, without markup

answer-not-yours = This button is not yours. Send /start to get your own.
answer-private-only = API keys are shown only in a private chat with this bot.
failed-text = Something went wrong on our side. Please try again.

## Buttons

button-account = 👤 User Info
button-key = 🔑 API key
button-copy = 📋 Copy
button-revoke = ♻️ Revoke
button-confirm = ✅ Confirm
button-cancel = ✖️ Cancel
button-back = ‹ Back
button-retry = 🔄 Retry
button-show-again = 👁 Show again
button-open = Open the bot

## The command list

command-start = Main menu
command-apikey = Show your API key
command-help = What this bot does
