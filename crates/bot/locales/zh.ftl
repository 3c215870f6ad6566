# The texts of the bot in Chinese (simplified characters). Texts are HTML for Telegram; buttons, answers and commands are plain.

## Screens

menu-text =
    <b>API 访问</b>

    您可以在这里查看账户 <code>{ $account }</code> 的 API 密钥，也可以随时更换。
account-text =
    <b>用户信息</b>

    账户：<code>{ $account }</code>
    Telegram ID：<code>{ $user }</code>
not-registered =
    <b>尚无账户</b>

    您的 Telegram 尚未关联账户，因此没有 API 密钥。请先注册，然后点按“重试”。
account-unknown = 暂时无法确认您的账户，因此未执行任何操作，请重试。
key-title = <b>您的 API 密钥</b>（点按即可复制）
key-warning = 任何人拿到此密钥，都能以您账户的身份进行操作。切勿将密钥告诉他人，也不要让它出现在聊天、截图或公开代码中。
key-once = 此密钥仅显示这一次，请立即复制并妥善保存。之后您和本机器人都无法再次查看。
key-hides-minutes = 为保障安全，密钥将在 { $minutes } 分钟后自动隐藏。
key-hides-seconds = 为保障安全，密钥将在 { $seconds } 秒后自动隐藏。
key-not-shown =
    <b>您的 API 密钥</b> <code>{ $hint }…</code>

    此密钥仅在创建时显示过一次，无法再次查看。如已遗失，请撤销此密钥以获取新密钥。
key-disabled =
    <b>您的 API 密钥</b> <code>{ $hint }…</code>

    此密钥已停用，使用它的程序目前无法工作。撤销密钥也不会恢复使用。
key-hidden =
    <b>您的 API 密钥</b> <code>{ $hint }…</code>

    为保障安全，密钥已隐藏。
key-gone =
    <b>旧的 API 密钥</b> <code>{ $hint }…</code>

    此密钥已失效。
key-dead =
    <b>已撤销的 API 密钥</b> <code>{ $hint }…</code>

    此密钥已于 { $time } 失效。
key-dead-grace =
    <b>已撤销的 API 密钥</b> <code>{ $hint }…</code>

    此密钥将于 { $time } 失效，在此之前仍可照常使用。
ask-text =
    <b>确定要撤销此密钥吗？</b>

    撤销后，所有使用此密钥的程序、脚本和集成服务会停止工作。您将获得新密钥，换上后即可恢复。此操作不可撤回。
ask-grace = 需要时间更换程序中的密钥？您可以立即获得新密钥，同时将旧密钥保留 { $hours } 小时。如果旧密钥可能已泄露，请点按“确认”。
ask-hint = 密钥：<code>{ $hint }…</code>
ask-used-now = 最近一次已知的使用：刚刚。
ask-used-minutes = 最近一次已知的使用：{ $minutes } 分钟前。
ask-used-hours = 最近一次已知的使用：{ $hours } 小时前。
ask-used-days = 最近一次已知的使用：{ $days } 天前。
old-key-tried = 旧密钥失效后，仍有人尝试使用，最近一次为 { $time }。请检查您的所有程序是否都已换上新密钥。
revoking-text = 正在撤销密钥，最长可能需要一分钟。如果一直没有结果，请点按“重试”。重试不会生成第二个新密钥。
unclear-unconfirmed =
    <b>尚未完成</b>

    密钥正在撤销，但暂时无法确认它已在所有地方失效，短时间内可能仍能在个别地方使用。请点按“重试”，直到撤销得到确认。重试不会生成第二个新密钥。
unclear-unknown =
    <b>结果未知</b>

    服务没有响应。旧密钥可能仍然有效，也可能已经失效，请勿依赖旧密钥。请点按“重试”。重试不会生成第二个新密钥。
unclear-busy =
    <b>结果尚未确定</b>

    当前查看密钥的用户过多，暂时无法显示结果。旧密钥可能仍然有效，也可能已经失效，请勿依赖旧密钥。请在一分钟后点按“重试”。重试不会生成第二个新密钥。
unclear-fault =
    <b>结果未知</b>

    服务暂时不接受本机器人的请求。旧密钥可能仍然有效，也可能已经失效，请勿依赖旧密钥。请稍后点按“重试”。重试不会生成第二个新密钥。
busy-text = 当前查看密钥的用户过多，暂时无法显示您的密钥，请在一分钟后重试。
unavailable-text = 暂时无法连接服务，请重试。
present-unavailable = 暂时无法显示您当前的密钥，请重试。
fault-text = 服务暂时不接受本机器人的请求。这与您和您的密钥无关，请稍后重试。
support-text = 如果问题持续存在，请联系 { $contact }。
limited-reveals = 您查看密钥的次数过多。为保障安全，请在 { $minutes } 分钟后再查看。
limited-revokes = 您更换密钥的次数过多，本次未做任何更改。请在 { $minutes } 分钟后再撤销。
help-text =
    <b>本机器人的功能</b>

    /start – 主菜单
    /apikey – 您的 API 密钥
    /help – 帮助

    本机器人不会读取您的消息，请使用按钮操作。
group-text = API 密钥只能在与本机器人的私聊中查看。

## Notes above a screen

note-replaced = <b>这是您的新密钥。</b>旧密钥已于 { $time } 失效。
note-replaced-grace = <b>这是您的新密钥。</b>旧密钥将于 { $time } 失效，在此之前仍可照常使用。
note-already = 那条消息中的密钥此前已被撤销，并已于 { $time } 失效。
note-already-grace = 那条消息中的密钥此前已被撤销，将于 { $time } 失效，在此之前仍可照常使用。
note-expired = 那条消息中的密钥已过期，无需撤销。
note-unknown-key = 那条消息中的密钥已不存在。
note-changed = 那条消息中的密钥已不是您账户当前的密钥。
note-current = 您当前的密钥如下：
note-cancelled = 未做任何更改。
note-late = 您的确认送达过晚，因此未做任何更改。如果仍要撤销密钥，请再次确认。
note-old-button = 那个按钮来自旧版本的机器人，请从这里继续操作。
note-other-place = 那个按钮属于其他账户或密钥，因此未执行任何操作。您当前的账户：

## Answers to a tap, without markup

answer-not-yours = 此按钮不属于您。请发送 /start 打开您自己的菜单。
answer-private-only = API 密钥只能在与本机器人的私聊中查看。
failed-text = 抱歉，我们这边出了点问题，请重试。

## Buttons

button-account = 👤 用户信息
button-key = 🔑 API 密钥
button-copy = 📋 复制
button-revoke = ♻️ 撤销
button-confirm = ✅ 确认
button-grace = ⏳ 保留 { $hours } 小时
button-cancel = ✖️ 取消
button-back = ‹ 返回
button-retry = 🔄 重试
button-show-again = 👁 再次显示
button-open = 打开机器人

## The list of commands

command-start = 主菜单
command-apikey = 显示您的 API 密钥
command-help = 本机器人的功能
