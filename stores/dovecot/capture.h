/* What the files of the capture plugin share.
 *
 * Owns: the plugin's state of a mail user, of a mailbox and of a transaction.
 * What can hurt: Dovecot frees a transaction inside its commit; whatever is needed later is in `struct us_txn`.
 * Refuses: the ring's interface (ring-client.h) and the bytes of operations (op-encode.h). */
#ifndef UNDERSTUDY_CAPTURE_H
#define UNDERSTUDY_CAPTURE_H

#include "compat.h"
#include "ring-client.h"

#define US_USER_CONTEXT(obj) ((struct us_user *)MODULE_CONTEXT(obj, us_user_module))
#define US_MAILBOX_CONTEXT(obj) ((struct us_mailbox *)MODULE_CONTEXT(obj, us_storage_module))
#define US_TXN_CONTEXT(obj) ((struct us_txn *)MODULE_CONTEXT(obj, us_storage_module))

/* Name of the replay service, whose changes come from a peer and are not captured again. */
#define US_REPLAY_SERVICE "understudy-replay"

struct us_user {
    union mail_user_module_context module_ctx;
    const char *spool_dir; /* NULL: bodies are not captured */
    struct us_account *own; /* keeps the account of the session open between mailboxes */
};

struct us_mailbox {
    union mailbox_module_context module_ctx;
    struct us_user *user;
    struct us_account *account; /* of the owner; NULL: mail of this mailbox is not captured */
    const char *name;           /* as the owner sees it */
    const char *session_user;   /* who works on it, where that is not the owner; else NULL */
    guid_128_t guid;            /* zeros: not known yet */
    uint32_t identity_sent;     /* UIDVALIDITY of the index when it was told while empty; 0: it was not */
    struct us_wait deferred;    /* acknowledgement of a change that was made under the list lock */
    /* What a synchronisation found changed, while the mailbox is open. */
    struct us_mailbox *next_opened;
    struct mailbox *box; /* NULL: not watched */
    ARRAY_TYPE(seq_range) found_flag_uids;
    bool found_messages;
};

/* One saved or copied message, in the order of Dovecot's list of new UIDs. */
struct us_saved {
    bool copied, moved, has_blob;
    const char *guid;
    unsigned char blob_id[OP_BLOB_ID_BYTES];
    guid_128_t source_guid;
    uint32_t source_uid;
    uint64_t size_physical, size_virtual;
    time_t received, saved;
    int received_tz_minutes;
    uint32_t flags;
    const char *const *keywords;
};

struct us_expunged {
    uint32_t uid;
    const char *guid; /* NULL: not at hand */
};

struct us_attribute {
    bool private;
    const char *key, *value; /* no value: removed */
};

struct us_txn {
    union mailbox_transaction_module_context module_ctx;
    struct mailbox *box;
    pool_t pool;
    ARRAY(struct us_saved) saved;
    ARRAY(struct us_expunged) expunged;
    ARRAY(struct us_attribute) attributes;
    ARRAY_TYPE(seq_range) flag_uids;
    /* Of the save in progress. */
    const char *save_guid;
    time_t save_received;
    int save_tz_minutes;
    bool saved_published, body_missing;
    struct us_intent intent;
    struct us_wait wait;
};

extern MODULE_CONTEXT_DEFINE(us_user_module, &mail_user_module_register);
extern MODULE_CONTEXT_DEFINE(us_storage_module, &mail_storage_module_register);

/* capture-plugin.c */
void understudy_plugin_init(struct module *module);
void understudy_plugin_deinit(void);
/* Makes the command fail with a temporary error and this text. */
void us_set_refused(struct mailbox *box, const char *why);

/* capture-mailbox.c */
void us_mailbox_allocated(struct mailbox *box);
void us_mailbox_opened(struct mailbox *box);
/* Waits for what was put off, outside every lock. */
void us_mailbox_wait_deferred(struct us_mailbox *mbox);
/* Adds who did it to an operation, where that is not the account's owner. */
void us_put_session(struct op *op, struct mailbox *box, const struct us_mailbox *mbox);

/* capture-identity.c; none sets a storage error. */
bool us_is_maildir(const struct mailbox *box);
/* GUID of the mailbox, asked for once; false if it has none or it cannot be read. */
bool us_mailbox_guid(struct mailbox *box, struct us_mailbox *mbox);
/* Takes the GUID that the store has in the end; needs no lock and opens nothing. */
void us_mailbox_guid_again(struct mailbox *box, struct us_mailbox *mbox);
/* Takes the GUID that the store has in the end, and gives the UIDVALIDITY that it has, or 0. */
uint32_t us_identity_read(struct mailbox *box, struct us_mailbox *mbox);
/* After a sync: tells the identity of a Maildir's INBOX that nobody has put a message into, which no other operation
 * would carry. */
void us_identity_synced(struct mailbox *box, struct us_mailbox *mbox);

/* capture-list.c; all under the lock of the mailbox list. */
/* What stands at a name. 1: a mailbox, with its identity; 0: none that can be opened; -1: not known. The list of
 * mailboxes may go on naming a mailbox, and telling its GUID, that was deleted while others were below it: only opening
 * it tells. */
int us_named_identity(struct mailbox *box, const char *name, guid_128_t guid_r, uint32_t *uid_validity_r);
/* Has Dovecot list the mailboxes again, which otherwise goes on with what it knows. */
void us_list_again(struct mailbox *box);
/* Whether a mailbox that is created now is created by us_named_identity(). */
bool us_is_looking(void);
/* Whether it is certain that the folder with the mailbox's mail is not there. */
bool us_folder_is_gone(struct mailbox *box);
/* Whether the mailbox was deleted, or renamed away from its name, so that nothing more is written to it. Needs no
 * lock. */
bool us_is_gone(struct mailbox *box);
/* Whether it is certain that the mailbox of this GUID stands at the mailbox's name. */
bool us_stands_at(struct mailbox *box, const guid_128_t guid);
/* Tells where the mailboxes below this one stand, of which some may have been below the other name before. */
void us_below_publish(struct mailbox *box, struct us_mailbox *mbox, const char *other);
/* Whether names that hold no mail have a state of their own, and it is the account's. */
bool us_has_directories(struct mailbox *box, const struct us_mailbox *mbox);
/* Tells whether the mailbox's name and those above it stand without mail or are gone. */
void us_directories_publish(struct mailbox *box, struct us_mailbox *mbox);

/* capture-rebuilt.c: mdboxes that are made anew. */
void us_rebuilt_mailbox_allocated(struct mailbox *box);

/* capture-index.c */
void us_index_init(void);
void us_index_deinit(void);
/* A Maildir's index is watched from here to there. */
void us_index_opened(struct mailbox *box, struct us_mailbox *mbox);
void us_index_freed(struct us_mailbox *mbox);
/* Whether the index transactions that begin now are a session's, which are published on their own. */
void us_index_session_transaction(bool begins);
/* Adds the messages to which the transaction writes flags or keywords, before it is committed. */
void us_index_flag_uids(struct mail_index_transaction *t, ARRAY_TYPE(seq_range) *uids);

/* capture-txn.c: notify callbacks and overrides of a mailbox's transactions. */
extern const struct notify_vfuncs us_notify_vfuncs;
void us_txn_override(struct mailbox_vfuncs *v);
/* Publishes what a synchronisation found changed. */
void us_found_publish(struct mailbox *box, struct us_mailbox *mbox);

/* capture-save.c: overrides of saving and copying, and publication of what was saved. */
void us_save_override(struct mailbox_vfuncs *v);
void us_notify_save(void *txn, struct mail *mail);
void us_notify_copy(void *txn, struct mail *src, struct mail *dst);

/* capture-attr.c */
int us_attribute_set(struct mailbox_transaction_context *t, enum mail_attribute_type type_flags, const char *key,
                     const struct mail_attribute_value *value);
void us_attributes_publish(struct us_txn *txn, struct us_mailbox *mbox, bool last);

/* capture-blob.c: writes the message's body into the spool. False: not written; the caller marks the gap. */
bool us_blob_capture(const struct us_mailbox *mbox, struct mail *mail, unsigned char blob_id_r[OP_BLOB_ID_BYTES]);

#endif
