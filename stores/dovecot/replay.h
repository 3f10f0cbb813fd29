/* The replay service, shared: users, open mailboxes, results. Each section names the file that owns it. */
#ifndef UNDERSTUDY_REPLAY_H
#define UNDERSTUDY_REPLAY_H

#include "lib.h"
#include "array.h"
#include "buffer.h"
#include "mail-storage.h"
#include "mail-user.h"

#include "compat-service.h"
#include "op-decode.h"

#define REPLAY_SERVICE_NAME "understudy-replay"
#define REPLAY_PROTOCOL_VERSION 1u

/* Limits. Past them: a message or count is refused and the connection closed; the user used least is closed. */
#define REPLAY_MESSAGE_BYTES_MAX (64u * 1024u * 1024u)
#define REPLAY_APPLY_OPS_MAX 65536u
#define REPLAY_USERS_MAX 64u
/* Mailboxes of one user that stay open between requests. Past it the one used least recently is closed. Opening costs
 * Maildir a look at every file of a folder. */
#define REPLAY_KEPT_BOXES 4u
/* Saves and changes in one transaction. Past it the transaction is committed and a new one begun. */
#define REPLAY_RUN_OPS_MAX 1024u
/* A dump's reply is sent when it has passed this many bytes. */
#define REPLAY_DUMP_REPLY_BYTES (256u * 1024u)
/* A reply of RAISE is sent after so many mailboxes, so that the agent sees that it goes on. */
#define REPLAY_RAISE_REPLY_BOXES 64u
/* Accounts of one KICK. Past it the request is refused. */
#define REPLAY_KICK_ACCOUNTS_MAX 65536u
#define REPLAY_TEXT_BYTES_MAX 1024u
#define REPLAY_PATH_BYTES_MAX 4000u
/* How long a request waits until an earlier one of the same account has ended, in milliseconds. Past it: status 7. */
#define REPLAY_TURN_MS_MAX 200u
/* An agent that takes no reply for this long has gone. */
#define REPLAY_SEND_SECONDS_MAX 120

/* docs/formats.md, "Replay service". */
enum replay_status {
    REPLAY_APPLIED = 0,
    REPLAY_ALREADY = 1,
    REPLAY_NO_USER = 2,
    REPLAY_NO_MAILBOX = 3,
    REPLAY_NO_SOURCE = 4,
    REPLAY_CONFLICT = 5,
    REPLAY_NO_BODY = 6,
    REPLAY_TEMPORARY = 7,
    REPLAY_REFUSED = 8,
    REPLAY_MALFORMED = 9,
    REPLAY_NOT_TRIED = 10,
};

enum replay_command {
    REPLAY_HELLO = 1,
    REPLAY_USER = 2,
    REPLAY_APPLY = 3,
    REPLAY_DUMP = 4,
    REPLAY_SPOOL = 5,
    REPLAY_CLOSE_USER = 6,
    REPLAY_USERS = 7,
    REPLAY_RAISE = 8,
    REPLAY_KICK = 9,
};

#define REPLAY_DUMP_MESSAGES 1u
#define REPLAY_DUMP_BODIES 2u

/* Result of one operation; the text lives in the request's pool. */
struct replay_result {
    enum replay_status status;
    const char *text;
};

/* replay-box.c: a mailbox that operations are being applied to. */

struct replay_box {
    struct mailbox *box;
    guid_128_t guid;
    uint32_t uid_validity;
    /* Counts saves that are queued, too. */
    uint32_t next_uid;
    /* Of the folder of its index, to notice that another stands at its place. */
    uint64_t folder_inode, folder_born_ns;
    /* For looking at messages, opened when needed. */
    struct mailbox_transaction_context *look_t;
    struct mail *look;
    /* UIDs that the log knows as expunged, read when needed. */
    ARRAY_TYPE(mailbox_expunge_rec) expunged;
    bool expunged_known;
};

/* replay-user.c: opened users of this process, least recently used first to go. */

/* Where a mailbox of a known identity was last seen. */
struct replay_place {
    guid_128_t guid;
    struct mail_namespace *ns;
    char *name;
};

struct replay_user {
    char *name;
    struct mail_storage_service_user *service_user;
    struct mail_user *mail_user;
    uid_t euid;
    gid_t egid;
    gid_t *groups;
    int groups_count;
    uint64_t used;
    /* Serial number of the connection that it was last opened for. */
    uint64_t conn_serial;
    ARRAY(struct replay_place) places;
    bool places_known;
    /* Mailboxes left open by earlier requests, the one used last at the end. */
    struct replay_box kept[REPLAY_KEPT_BOXES];
    unsigned int kept_count;
};

/* replay-turn.c: one request of an account at a time, over all processes of the service. */

/* The descriptor that holds the turn; -1: the account has no folder to hold it by, and goes on without. FALSE: another
 * request has it. */
bool replay_turn_take(struct replay_user *user, int *fd_r, struct replay_result *result_r);
void replay_turn_give(int *fd);

void replay_users_init(struct mail_storage_service_ctx *storage_service);
void replay_users_deinit(void);
/* Opens or finds a user and takes on its rights. */
struct replay_user *replay_user_open(const char *name, struct replay_result *result_r);
void replay_user_activate(struct replay_user *user);
void replay_user_close(struct replay_user *user);
/* Calls the function with every account that the user database lists. -1: it cannot list, or the function said no. */
int replay_users_each(bool (*each)(void *context, const char *name), void *context);
/* Gives up every user's rights until the next activation. */
void replay_user_deactivate(void);
/* The folder of this Dovecot's sockets. */
const char *replay_base_dir(void);

/* replay-place.c: mailbox identities of a user. */

struct replay_place *replay_place_find(struct replay_user *user, const guid_128_t guid);
void replay_place_set(struct replay_user *user, const guid_128_t guid, struct mail_namespace *ns, const char *name);
void replay_place_remove(struct replay_user *user, const guid_128_t guid);
/* A mailbox and its children have another name. */
void replay_place_renamed(struct replay_user *user, struct mail_namespace *ns, const char *from, const char *to);
/* Reads all names and identities again. */
void replay_places_read(struct replay_user *user);
void replay_places_clear(struct replay_user *user);
/* Whether one of the user's storages was made anew from its files since this was asked last. */
bool replay_storage_was_rebuilt(struct replay_user *user);
/* The private namespace that the name belongs to; NULL when it is shared, public or impossible. */
struct mail_namespace *replay_namespace(struct replay_user *user, const char *name);
/* Turns the storage's last error into a result. */
void replay_error(struct mail_storage *storage, const char *what, struct replay_result *result_r);
void replay_set(struct replay_result *result, enum replay_status status, const char *text);

/* replay-box.c */

struct replay_apply;
struct replay_conn;

bool replay_box_open(struct replay_apply *ap, struct replay_box *rb, const guid_128_t guid, uint32_t uid_validity,
             struct replay_result *result_r);
void replay_box_close(struct replay_box *rb);
/* Leaves it open for a later operation. */
void replay_box_keep(struct replay_user *user, struct replay_box *rb);
void replay_kept_close(struct replay_user *user);
void replay_boxes_forget(struct replay_user *user);
int replay_box_sync(struct replay_box *rb);
void replay_box_look_end(struct replay_box *rb);
/* Points the mail at this UID if it is in the mailbox. Not mail_set_uid(): after a miss that one leaves its mark of
 * "expunged" on the mail, also for the messages that come after. */
bool replay_box_seek(struct replay_box *rb, struct mail *mail, uint32_t uid);
/* The message with this UID, or NULL. Valid until the next call or replay_box_look_end(). */
struct mail *replay_box_look(struct replay_box *rb, uint32_t uid);
/* Whether the log says that this message was here and has been expunged. */
bool replay_box_was_expunged(struct replay_box *rb, uint32_t uid, const char *guid);

/* replay-apply.c: the operations of one request. */

enum replay_run_kind {
    REPLAY_RUN_NONE,
    /* Saves and copies: an external transaction. */
    REPLAY_RUN_SAVE,
    /* Flags and expunges. */
    REPLAY_RUN_CHANGE,
};

struct replay_item {
    struct us_op op;
    struct replay_result result;
    /* Decoded without fault. */
    bool valid;
};

/* One transaction over operations of one mailbox. */
struct replay_run {
    enum replay_run_kind kind;
    struct mailbox_transaction_context *t;
    struct mail *mail;
    ARRAY(unsigned int) queued;
    uint32_t last_uid;
};

struct replay_apply {
    struct replay_conn *conn;
    struct replay_user *user;
    pool_t pool;
    struct replay_item *items;
    unsigned int count;
    /* All names were read during this request: a miss is a miss. */
    bool places_fresh;
    struct replay_box current;
    struct replay_box source;
    struct replay_run run;
    /* Names that are subscribed, read when needed. */
    ARRAY(const char *) subscribed;
    bool subscribed_known;
    /* Trying the operations of a failed transaction one by one. */
    bool single;
    /* An operation failed: the ones after it are left alone, because a later save would take the UID it needs. */
    bool stopped;
    /* The storage was made anew from its files: what is kept of the user is closed. */
    bool rebuilt;
};

void replay_apply_all(struct replay_apply *ap);
/* TRUE, and says "not tried", when an operation before has failed. */
bool replay_stopped(const struct replay_apply *ap, struct replay_result *result);
/* Commits what is queued. */
void replay_run_end(struct replay_apply *ap);
/* Commits what is queued and closes all mailboxes of the user. */
void replay_apply_settle(struct replay_apply *ap);

/* replay-apply-mailbox.c, -subscription.c, -message.c, -change.c, -attribute.c */

void replay_apply_mailbox(struct replay_apply *ap, const struct us_op *op, struct replay_result *result);
/* Makes a mailbox of this identity exist under this name if none of the identity exists. */
bool replay_mailbox_ensure(struct replay_apply *ap, const guid_128_t guid, const char *name, uint32_t uid_validity,
               bool *changed_r, struct replay_result *result);
/* The same, and opens it as the current one. */
bool replay_mailbox_ensure_open(struct replay_apply *ap, const struct us_op *op, bool *made_r,
                                struct replay_result *result);
void replay_apply_subscription(struct replay_apply *ap, const struct us_op *op, struct replay_result *result);
void replay_apply_attribute(struct replay_apply *ap, const struct us_op *op, struct replay_result *result);
void replay_apply_message(struct replay_apply *ap, unsigned int index);
void replay_save_commit(struct replay_apply *ap);
void replay_apply_change(struct replay_apply *ap, unsigned int index);
void replay_change_commit(struct replay_apply *ap);
enum mail_flags replay_flags(uint32_t flags);

/* replay-inbox.c: the mailbox that cannot be deleted. */

bool replay_inbox_needs_renewal(struct mailbox *box);
/* Empties it and makes it forget who it was; the handle is another one then. */
bool replay_inbox_renew(struct mailbox **box, struct replay_result *result);

/* replay-conn.c: one connection. */

/* Bytes of a message before its body. */
#define REPLAY_HEAD_BYTES 12u

struct replay_conn {
    struct replay_conn *next;
    /* Counted from 1; never given twice in a process. */
    uint64_t serial;
    int fd;
    struct io *io;
    buffer_t *in;
    /* Account of the last USER; opened again when it has been closed for room. */
    char *account;
    char *spool;
    bool hello;
    bool broken;
};

void replay_conn_create(int fd);
void replay_conn_destroy_all(void);
/* Whether the agent has closed it. */
bool replay_conn_is_gone(struct replay_conn *conn);
/* Sends one reply; FALSE when the agent has gone. */
bool replay_send(struct replay_conn *conn, uint16_t command, uint32_t request, enum replay_status status,
                 const void *body, size_t size);
void replay_put_u16(buffer_t *out, uint16_t value);
void replay_put_u32(buffer_t *out, uint32_t value);
uint32_t replay_get_u32(const unsigned char *p);
uint64_t replay_get_u64(const unsigned char *p);

/* replay-proto.c: what a whole message asks for. */

void replay_request(struct replay_conn *conn, const unsigned char *message, size_t size);
/* A name of at most `max` bytes: UTF-8, neither empty nor with control characters. */
bool replay_text(const unsigned char *body, size_t size, size_t max, const char **text_r);

/* replay-list.c: the names of an account, sorted; FALSE and a result when they cannot be listed. */

struct replay_listed {
    const char *name;
    struct mail_namespace *ns;
    bool directory;
};
ARRAY_DEFINE_TYPE(replay_listed, struct replay_listed);

bool replay_list_mailboxes(struct replay_user *user, pool_t pool, ARRAY_TYPE(replay_listed) *boxes,
                           struct replay_result *result_r);
bool replay_list_subscribed(struct replay_user *user, pool_t pool, ARRAY_TYPE(const_string) *names,
                            struct replay_result *result_r);

/* replay-raise.c */

struct replay_raise_request {
    struct replay_user *user;
    uint32_t uid_gap;
    uint64_t modseq_gap;
    bool (*send)(void *context, const buffer_t *ops);
    void *context;
};

/* Tells the counters of every mailbox, then raises them; not the empty end. */
void replay_raise(const struct replay_raise_request *request, struct replay_result *result_r);

/* replay-kick.c: with the body of the request. */

void replay_kick(const unsigned char *body, size_t size, uint64_t *sessions_r, struct replay_result *result_r);

/* replay-dump.c, replay-body.c */

struct replay_dump_request {
    struct replay_user *user;
    uint32_t flags;
    guid_128_t only;
    /* NULL unless bodies are wanted. */
    const char *spool;
    bool (*send)(void *context, const buffer_t *ops);
    void *context;
};

/* Calls send with runs of operations, not with the empty end. */
void replay_dump(const struct replay_dump_request *request, struct replay_result *result_r);

/* Copies a body into the spool and names it. 0, or -1 with the text of the failure. */
int replay_body_spool(const char *spool, struct istream *input, unsigned char id_r[32], const char **error_r);

#endif
