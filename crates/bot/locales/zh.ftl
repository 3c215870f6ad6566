# What the bot says, in Chinese. Text is HTML as Telegram takes it; buttons, answers and commands
# are plain.

## Screens

menu-text =
    <b>API 访问</b>

    在这里可以查看您的账户 <code>{ $account }</code> 的 API 密钥，并在需要时更换。
account-text =
    <b>用户信息</b>

    账户：<code>{ $account }</code>
    Telegram ID：<code>{ $user }</code>
key-title = <b>您的 API 密钥</b>（点按即可复制）
key-warning = ⚠️ 任何持有此密钥的人都可以动用您账户的余额。请勿交给他人，也不要放进聊天、截图或公开的代码中。
key-once = 此密钥只显示这一次，请立即复制保存：之后您和本机器人都无法再次查看。
key-hides-minutes = { $minutes } 分钟后，密钥将在此聊天中隐藏。
key-hides-seconds = { $seconds } 秒后，密钥将在此聊天中隐藏。
key-not-shown =
    <b>您的 API 密钥</b> <code>{ $hint }…</code>

    此密钥仅在创建时显示过一次，无法再次显示。如果您已经没有它，请将其撤销，您会得到一个新的密钥。
key-disabled =
    <b>您的 API 密钥</b> <code>{ $hint }…</code>

    此密钥目前已被停用，使用它的程序都无法工作。撤销密钥也不会改变这一点。
key-hidden =
    <b>您的 API 密钥</b> <code>{ $hint }…</code>

    为安全起见已隐藏。
key-gone =
    <b>旧的 API 密钥</b> <code>{ $hint }…</code>

    此密钥已不能使用。
key-dead =
    <b>已撤销的 API 密钥</b> <code>{ $hint }…</code>

    自 { $time } 起已失效。
ask-text =
    <b>确定撤销此密钥吗？</b>

    所有使用它的程序、交易机器人和对接服务都会立即停止工作，直到您换上新的密钥。此操作无法撤回。
ask-hint = 密钥：<code>{ $hint }…</code>
revoking-text = 正在撤销密钥……最长可能需要一分钟。如果没有结果，请点按“重试”，不会因此产生第二个新密钥。
unclear-unconfirmed =
    <b>尚未完成</b>

    密钥正在撤销，但还不能确定它已在所有地方失效：在一段时间内它可能仍在某处有效。请点按“重试”，直到得到确认。不会因此产生第二个新密钥。
unclear-unknown =
    <b>结果未知</b>

    服务没有应答：旧密钥可能已经失效，也可能仍然有效，请不要依赖任何一种情况。请点按“重试”再次查询。不会因此产生第二个新密钥。
unavailable-text = 暂时无法连接服务，请稍后重试。
present-unavailable = 暂时无法显示您当前的密钥，请稍后重试。
fault-text = 服务目前拒绝了本机器人的请求。这不是您或您的密钥的问题，请稍后重试。
support-text = 如果问题持续存在，请联系 { $contact }。
limited-reveals = 您查看密钥过于频繁。为安全起见，{ $minutes } 分钟后才能再次显示。
limited-revokes = 您更换密钥过于频繁，这次没有做任何更改。{ $minutes } 分钟后可以再次撤销。
help-text =
    <b>本机器人的功能</b>

    /start – 主菜单
    /apikey – 您的 API 密钥
    /help – 本说明

    本机器人不会阅读您的消息，请使用按钮操作。
group-text = API 密钥只在与本机器人的私聊中显示。

## What happened before

note-replaced = ✅ <b>这是您的新密钥。</b>旧密钥自 { $time } 起已失效。
note-already = ℹ️ 那条消息中的密钥此前已被撤销，自 { $time } 起失效。当前情况如下：
note-expired = ℹ️ 那条消息中的密钥已经过期，因此没有撤销，而是由新的密钥接替。当前情况如下：
note-unknown-key = ℹ️ 那条消息中的密钥已不存在。当前情况如下：
note-cancelled = 没有做任何更改。
note-changed = ℹ️ 那条消息中的密钥已不是您账户当前的密钥。当前情况如下：
note-old-button = ℹ️ 那个按钮来自本机器人的旧版本，请从这里继续。

## Answers to a tap, without markup

answer-not-yours = 这个按钮不属于您。请发送 /start 打开您自己的菜单。
answer-private-only = API 密钥只在与本机器人的私聊中显示。
failed-text = 我们这边出了点问题，请重试。

## Buttons

button-account = 👤 用户信息
button-key = 🔑 API 密钥
button-copy = 📋 复制
button-revoke = ♻️ 撤销
button-confirm = ✅ 确认
button-cancel = ✖️ 取消
button-back = ‹ 返回
button-retry = 🔄 重试
button-show-again = 👁 再次显示
button-open = 打开机器人

## The command list

command-start = 主菜单
command-apikey = 显示您的 API 密钥
command-help = 本机器人的功能
