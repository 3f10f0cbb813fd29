/* Registration and settings of the capture plugin.
 *
 * Owns: the plugin's entry points, the hooks, the state of a mail user.
 * What can hurt: a bug here ends users' sessions, so nothing asserts and nothing is fatal: what goes wrong is
 * logged, the account is marked for comparison, and the session goes on.
 * Refuses: the replay service, whose changes come from a peer, and mail that belongs to nobody. */
#include "capture.h"

/* Dovecot refuses to load the plugin into another ABI, and the plugin without `notify`. */
extern const char *understudy_plugin_version;
extern const char *understudy_plugin_dependencies[];
const char *understudy_plugin_version = DOVECOT_ABI_VERSION;
const char *understudy_plugin_dependencies[] = { "notify", NULL };

struct us_user_module us_user_module = MODULE_CONTEXT_INIT(&mail_user_module_register);

static struct notify_context *notify_ctx;

static void us_user_deinit(struct mail_user *user)
{
    struct us_user *uuser = US_USER_CONTEXT(user);

    /* First the others: they may still close mailboxes. */
    uuser->module_ctx.super.deinit(user);
    us_account_unref(&uuser->own);
}

static void us_user_created(struct mail_user *user)
{
    struct mail_user_vfuncs *v = user->vlast;
    const char *ring, *absent;
    struct us_user *uuser;
    bool refuse = FALSE;

    if (strcmp(compat_service_name(user), US_REPLAY_SERVICE) == 0)
        return;
    ring = compat_setting(user, "understudy_ring");
    if (ring == NULL || *ring == '\0')
        return;
    absent = compat_setting(user, "understudy_on_absent");
    if (absent != NULL && strcmp(absent, "refuse") == 0)
        refuse = TRUE;
    else if (absent != NULL && *absent != '\0' && strcmp(absent, "go-on") != 0)
        i_warning("understudy: setting `understudy_on_absent` is `%s`; it must be `go-on` or `refuse`; using `go-on`",
                  absent);

    us_ring_configure(ring, refuse);
    uuser = p_new(user->pool, struct us_user, 1);
    uuser->spool_dir = p_strdup_empty(user->pool, compat_setting(user, "understudy_spool"));
    uuser->own = us_account_ref(user->username);
    uuser->module_ctx.super = *v;
    user->vlast = &uuser->module_ctx.super;
    v->deinit = us_user_deinit;
    MODULE_CONTEXT_SET(user, us_user_module, uuser);
}

void us_set_refused(struct mailbox *box, const char *why)
{
    /* A text that starts with a bracket replaces the response code of IMAP; LMTP answers 451. */
    mail_storage_set_error(box->storage, MAIL_ERROR_TEMP, t_strconcat("[UNAVAILABLE] ", why, NULL));
}

static struct mail_storage_hooks us_hooks = {
    .mail_user_created = us_user_created,
    .mailbox_allocated = us_mailbox_allocated,
    .mailbox_opened = us_mailbox_opened,
};

static struct mail_storage_hooks us_rebuilt_hooks = {
    .mailbox_allocated = us_rebuilt_mailbox_allocated,
};

void understudy_plugin_init(struct module *module)
{
    notify_ctx = notify_register(&us_notify_vfuncs);
    mail_storage_hooks_add(module, &us_hooks);
    mail_storage_hooks_add(module, &us_rebuilt_hooks);
    us_index_init();
}

void understudy_plugin_deinit(void)
{
    us_index_deinit();
    mail_storage_hooks_remove(&us_rebuilt_hooks);
    mail_storage_hooks_remove(&us_hooks);
    compat_notify_unregister(&notify_ctx);
    us_ring_shutdown();
}
