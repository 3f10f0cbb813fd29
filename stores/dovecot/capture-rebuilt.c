/* An mdbox that Dovecot makes anew from its files, as it does after a process was killed: messages come back, others go,
 * and no operation tells of it.
 *
 * Owns: noticing it after each sync and each commit, and marking the account, which is then compared. What can hurt:
 * the death of a process between the repair and the mark; the background comparison finds that. Refuses: telling what
 * changed, which Dovecot does not say. */

#include "capture.h"

#include "compat-service.h"
#include "compat.h"
#include "ring-client.h"

#define US_REBUILT_CONTEXT(obj) MODULE_CONTEXT_REQUIRE(obj, us_rebuilt_module)

static MODULE_CONTEXT_DEFINE_INIT(us_rebuilt_module, &mail_storage_module_register);

static void us_rebuilt_look(struct mailbox *box)
{
    struct us_mailbox *mbox = US_MAILBOX_CONTEXT(box);
    const char *why;

    if (mbox != NULL && mbox->account != NULL && us_storage_was_rebuilt(box->storage) &&
        us_account_admit(mbox->account, &why) == US_ADMIT_CAPTURE)
        us_gap(mbox->account, "the storage was made anew from its files");
}

static int us_rebuilt_sync_deinit(struct mailbox_sync_context *ctx, struct mailbox_sync_status *status_r)
{
    struct mailbox *box = ctx->box;
    union mailbox_module_context *rebuilt = US_REBUILT_CONTEXT(box);
    int ret;

    ret = rebuilt->super.sync_deinit(ctx, status_r);
    us_rebuilt_look(box);
    return ret;
}

static int us_rebuilt_transaction_commit(struct mailbox_transaction_context *t,
                                         struct mail_transaction_commit_changes *changes_r)
{
    struct mailbox *box = t->box;
    union mailbox_module_context *rebuilt = US_REBUILT_CONTEXT(box);
    int ret;

    ret = rebuilt->super.transaction_commit(t, changes_r);
    us_rebuilt_look(box);
    return ret;
}

void us_rebuilt_mailbox_allocated(struct mailbox *box)
{
    struct mailbox_vfuncs *v = box->vlast;
    union mailbox_module_context *rebuilt;

    if (strcmp(box->storage->name, "mdbox") != 0)
        return;
    rebuilt = p_new(box->pool, union mailbox_module_context, 1);
    rebuilt->super = *v;
    box->vlast = &rebuilt->super;
    v->sync_deinit = us_rebuilt_sync_deinit;
    v->transaction_commit = us_rebuilt_transaction_commit;
    MODULE_CONTEXT_SET_SELF(box, us_rebuilt_module, rebuilt);
}
