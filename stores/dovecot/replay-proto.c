/* The requests of the agent, one function each. docs/formats.md, "Replay service".
 *
 * Owns: which request may come when, and its reply's bytes. What can hurt: a request whose parts do not add up: it is
 * cut into parts before any of them is acted upon. Refuses: commands it does not know, and anything before HELLO
 * (status 9, and the connection goes on). */

#include "replay.h"

#include "unichar.h"

static bool send_result(struct replay_conn *conn, uint16_t command, uint32_t request,
            const struct replay_result *result)
{
    size_t size = result->status <= REPLAY_ALREADY ? 0 : I_MIN(strlen(result->text), REPLAY_TEXT_BYTES_MAX);

    return replay_send(conn, command, request, result->status, result->text, size);
}

bool replay_text(const unsigned char *body, size_t size, size_t max, const char **text_r)
{
    size_t i;

    if (size == 0 || size > max || !uni_utf8_data_is_valid(body, size))
        return FALSE;
    for (i = 0; i < size; i++) {
        if (body[i] < 0x20 || body[i] == 0x7f)
            return FALSE;
    }
    *text_r = t_strndup(body, size);
    return TRUE;
}

/* Users stay open between connections, and another process may have served this one meanwhile: what was noted of its
 * mailboxes then is looked at again (seen after kills: a mailbox that was taken for one that is there). */
static struct replay_user *user_of(struct replay_conn *conn, const char *name, struct replay_result *result_r)
{
    struct replay_user *user = replay_user_open(name, result_r);

    if (user != NULL && user->conn_serial != conn->serial) {
        user->conn_serial = conn->serial;
        replay_boxes_forget(user);
        replay_places_clear(user);
    }
    return user;
}

static struct replay_user *current_user(struct replay_conn *conn, struct replay_result *result_r)
{
    if (conn->account == NULL) {
        replay_set(result_r, REPLAY_MALFORMED, "no USER before this request");
        return NULL;
    }
    return user_of(conn, conn->account, result_r);
}

static void do_hello(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    static const char text[] = "dovecot " VERSION " (" DOVECOT_ABI_VERSION ")";
    struct replay_result result = { REPLAY_MALFORMED, "HELLO with a wrong length or version" };
    buffer_t *out;

    if (size != 4 || replay_get_u32(body) != REPLAY_PROTOCOL_VERSION) {
        (void)send_result(conn, REPLAY_HELLO, request, &result);
        return;
    }
    conn->hello = TRUE;
    out = t_buffer_create(128);
    replay_put_u32(out, REPLAY_PROTOCOL_VERSION);
    replay_put_u32(out, (uint32_t)(sizeof(text) - 1));
    buffer_append(out, text, sizeof(text) - 1);
    (void)replay_send(conn, REPLAY_HELLO, request, REPLAY_APPLIED, out->data, out->used);
}

static void do_user(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    struct replay_result result;
    const char *name;

    i_free(conn->account);
    if (!replay_text(body, size, OP_ACCOUNT_BYTES_MAX, &name))
        replay_set(&result, REPLAY_MALFORMED, "USER without an account name");
    else if (user_of(conn, name, &result) != NULL)
        conn->account = i_strdup(name);
    (void)send_result(conn, REPLAY_USER, request, &result);
}

/* Cuts the body into operations. Only when every length fits is anything applied. */
static bool split_ops(const unsigned char *body, size_t size, struct replay_apply *ap)
{
    size_t at = 4;
    unsigned int i;

    if (size < 4)
        return FALSE;
    ap->count = replay_get_u32(body);
    /* Each has a length and a head, so that the count is bounded by the bytes, too. */
    if (ap->count > REPLAY_APPLY_OPS_MAX || ap->count > (size - 4) / 4)
        return FALSE;
    ap->items = p_new(ap->pool, struct replay_item, I_MAX(ap->count, 1));
    for (i = 0; i < ap->count; i++) {
        struct replay_item *item = &ap->items[i];
        size_t len;

        if (size - at < 4)
            return FALSE;
        len = replay_get_u32(body + at);
        at += 4;
        if (len > size - at)
            return FALSE;
        T_BEGIN {
            const char *error;

            item->valid = us_op_decode(ap->pool, body + at, len, &item->op, &error);
            if (!item->valid) {
                item->result.status = REPLAY_MALFORMED;
                item->result.text = p_strdup(ap->pool, error);
            }
        } T_END;
        at += len;
    }
    return at == size;
}

static void do_apply(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    struct replay_result result = { REPLAY_MALFORMED, "APPLY whose lengths do not add up" };
    struct replay_apply ap;
    unsigned int i;
    int turn = -1;

    i_zero(&ap);
    ap.conn = conn;
    ap.user = current_user(conn, &result);
    if (ap.user == NULL || !replay_turn_take(ap.user, &turn, &result)) {
        (void)send_result(conn, REPLAY_APPLY, request, &result);
        return;
    }
    ap.pool = pool_alloconly_create("replay apply", 16384);
    if (!split_ops(body, size, &ap)) {
        replay_set(&result, REPLAY_MALFORMED, "APPLY whose lengths do not add up");
        (void)send_result(conn, REPLAY_APPLY, request, &result);
    } else {
        buffer_t *out = buffer_create_dynamic(default_pool, 4 + ap.count * 8);

        replay_apply_all(&ap);
        replay_put_u32(out, ap.count);
        for (i = 0; i < ap.count; i++) {
            const struct replay_result *r = &ap.items[i].result;
            size_t len = r->status <= REPLAY_ALREADY || r->text == NULL
                         ? 0
                         : I_MIN(strlen(r->text), REPLAY_TEXT_BYTES_MAX);

            replay_put_u16(out, (uint16_t)r->status);
            replay_put_u16(out, 0);
            replay_put_u32(out, (uint32_t)len);
            buffer_append(out, r->text, len);
        }
        (void)replay_send(conn, REPLAY_APPLY, request, REPLAY_APPLIED, out->data, out->used);
        buffer_free(&out);
    }
    replay_turn_give(&turn);
    if (ap.rebuilt)
        replay_user_close(ap.user);
    pool_unref(&ap.pool);
}

struct ops_sender {
    struct replay_conn *conn;
    uint16_t command;
    uint32_t request;
};

static bool ops_send(void *context, const buffer_t *ops)
{
    struct ops_sender *sender = context;

    return replay_send(sender->conn, sender->command, sender->request, REPLAY_APPLIED, ops->data, ops->used);
}

static void do_dump(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    struct ops_sender sender = { conn, REPLAY_DUMP, request };
    struct replay_dump_request dump;
    struct replay_result result;
    int turn = -1;

    i_zero(&dump);
    if (size != 4 + GUID_128_SIZE) {
        replay_set(&result, REPLAY_MALFORMED, "DUMP with a wrong length");
    } else if (((dump.flags = replay_get_u32(body)) & ~(REPLAY_DUMP_MESSAGES | REPLAY_DUMP_BODIES)) != 0) {
        replay_set(&result, REPLAY_MALFORMED, "DUMP with unknown flags");
    } else if ((dump.flags & REPLAY_DUMP_BODIES) != 0 && conn->spool == NULL) {
        replay_set(&result, REPLAY_MALFORMED, "DUMP of bodies without SPOOL before it");
    } else if ((dump.user = current_user(conn, &result)) != NULL && replay_turn_take(dump.user, &turn, &result)) {
        memcpy(dump.only, body + 4, GUID_128_SIZE);
        dump.spool = (dump.flags & REPLAY_DUMP_BODIES) != 0 ? conn->spool : NULL;
        replay_boxes_forget(dump.user);
        dump.send = ops_send;
        dump.context = &sender;
        replay_dump(&dump, &result);
        replay_turn_give(&turn);
        /* What is kept of it may be why: an mdbox was made anew at every look, for as long as its user stayed open. */
        if (result.status != REPLAY_APPLIED)
            replay_user_close(dump.user);
    }
    (void)send_result(conn, REPLAY_DUMP, request, &result);
}

static void do_raise(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    struct ops_sender sender = { conn, REPLAY_RAISE, request };
    struct replay_raise_request raise;
    struct replay_result result;
    int turn = -1;

    i_zero(&raise);
    if (size != 4 + 8) {
        replay_set(&result, REPLAY_MALFORMED, "RAISE with a wrong length");
    } else if ((raise.user = current_user(conn, &result)) != NULL && replay_turn_take(raise.user, &turn, &result)) {
        raise.uid_gap = replay_get_u32(body);
        raise.modseq_gap = replay_get_u64(body + 4);
        raise.send = ops_send;
        raise.context = &sender;
        replay_boxes_forget(raise.user);
        replay_raise(&raise, &result);
        replay_turn_give(&turn);
        /* As of a dump: what is kept of it may be why. */
        if (result.status != REPLAY_APPLIED)
            replay_user_close(raise.user);
    }
    (void)send_result(conn, REPLAY_RAISE, request, &result);
}

static void do_spool(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    struct replay_result result = { REPLAY_MALFORMED, "SPOOL without an absolute directory" };
    const char *path;

    if (replay_text(body, size, REPLAY_PATH_BYTES_MAX, &path) && *path == '/') {
        i_free(conn->spool);
        conn->spool = i_strdup(path);
        replay_set(&result, REPLAY_APPLIED, "");
    }
    (void)send_result(conn, REPLAY_SPOOL, request, &result);
}

static void do_close_user(struct replay_conn *conn, uint32_t request, size_t size)
{
    struct replay_result result = { REPLAY_APPLIED, "" };
    struct replay_user *user;

    if (size != 0)
        replay_set(&result, REPLAY_MALFORMED, "CLOSE_USER with a body");
    else if (conn->account != NULL) {
        user = replay_user_open(conn->account, &result);
        if (user != NULL)
            replay_user_close(user);
        replay_set(&result, REPLAY_APPLIED, "");
        i_free(conn->account);
    }
    (void)send_result(conn, REPLAY_CLOSE_USER, request, &result);
}

struct users_sender {
    struct replay_conn *conn;
    uint32_t request;
    buffer_t *out;
};

static bool users_flush(struct users_sender *sender)
{
    bool ok = sender->out->used == 0 || replay_send(sender->conn, REPLAY_USERS, sender->request, REPLAY_APPLIED,
                                                    sender->out->data, sender->out->used);

    buffer_set_used_size(sender->out, 0);
    return ok;
}

static bool users_each(void *context, const char *name)
{
    struct users_sender *sender = context;
    size_t size = strlen(name);

    /* The agent could not name such an account in an entry. */
    if (size == 0 || size > OP_ACCOUNT_BYTES_MAX)
        return TRUE;
    replay_put_u32(sender->out, (uint32_t)size);
    buffer_append(sender->out, name, size);
    return sender->out->used < REPLAY_DUMP_REPLY_BYTES || users_flush(sender);
}

static void do_users(struct replay_conn *conn, uint32_t request, size_t size)
{
    struct replay_result result = { REPLAY_APPLIED, "" };
    struct users_sender sender = { conn, request, NULL };

    if (size != 0) {
        replay_set(&result, REPLAY_MALFORMED, "USERS with a body");
    } else {
        sender.out = buffer_create_dynamic(default_pool, 65536);
        if (replay_users_each(users_each, &sender) < 0 || !users_flush(&sender))
            replay_set(&result, REPLAY_REFUSED, "the user database cannot list its users");
        buffer_free(&sender.out);
    }
    (void)send_result(conn, REPLAY_USERS, request, &result);
}

static void do_kick(struct replay_conn *conn, uint32_t request, const unsigned char *body, size_t size)
{
    struct replay_result result;
    uint64_t sessions;
    buffer_t *out;

    replay_kick(body, size, &sessions, &result);
    if (result.status != REPLAY_APPLIED) {
        (void)send_result(conn, REPLAY_KICK, request, &result);
        return;
    }
    out = t_buffer_create(8);
    replay_put_u32(out, (uint32_t)sessions);
    replay_put_u32(out, (uint32_t)(sessions >> 32));
    (void)replay_send(conn, REPLAY_KICK, request, REPLAY_APPLIED, out->data, out->used);
}

void replay_request(struct replay_conn *conn, const unsigned char *message, size_t size)
{
    const unsigned char *body = message + REPLAY_HEAD_BYTES;
    uint16_t command = (uint16_t)(message[4] | message[5] << 8);
    uint16_t status = (uint16_t)(message[6] | message[7] << 8);
    uint32_t request = replay_get_u32(message + 8);
    struct replay_result result = { REPLAY_MALFORMED, "unknown command" };

    size -= REPLAY_HEAD_BYTES;
    if (status != 0) {
        result.text = "request with a status";
        (void)send_result(conn, command, request, &result);
        return;
    }
    if (!conn->hello && command != REPLAY_HELLO) {
        result.text = "HELLO has to come first";
        (void)send_result(conn, command, request, &result);
        return;
    }
    switch (command) {
    case REPLAY_HELLO:
        do_hello(conn, request, body, size);
        break;
    case REPLAY_USER:
        do_user(conn, request, body, size);
        break;
    case REPLAY_APPLY:
        do_apply(conn, request, body, size);
        break;
    case REPLAY_DUMP:
        do_dump(conn, request, body, size);
        break;
    case REPLAY_SPOOL:
        do_spool(conn, request, body, size);
        break;
    case REPLAY_CLOSE_USER:
        do_close_user(conn, request, size);
        break;
    case REPLAY_USERS:
        do_users(conn, request, size);
        break;
    case REPLAY_RAISE:
        do_raise(conn, request, body, size);
        break;
    case REPLAY_KICK:
        do_kick(conn, request, body, size);
        break;
    default:
        (void)send_result(conn, command, request, &result);
    }
    replay_user_deactivate();
}
