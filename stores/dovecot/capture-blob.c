/* Writes message bodies into the spool, while they are saved.
 *
 * Owns: `docs/formats.md` ("Spool") for the plugin: tmp.<pid>.<counter> while written, then the name of the body.
 * What can hurt: a full or missing spool; the save goes on without a body in the operation and the account is
 * marked, unless the account's level needs the body. The stream belongs to Dovecot: it is put back to its start.
 * Refuses: fsync; the agent does it before it acknowledges an operation that names the body. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "capture.h"

#include "istream.h"
#include "write-full.h"

#include "understudy_ring.h"

/* Read by the agent's group: the spool directory is setgid. */
#define US_SPOOL_MODE 0640

static bool us_blob_copy(struct istream *input, int fd, struct us_blob_hasher *hasher)
{
    const unsigned char *data;
    size_t size;
    int ret;

    while ((ret = i_stream_read_more(input, &data, &size)) > 0) {
        us_blob_hasher_update(hasher, data, size);
        if (write_full(fd, data, size) < 0)
            return FALSE;
        i_stream_skip(input, size);
    }
    return ret < 0 && input->stream_errno == 0;
}

/* Gives the complete file its name. One that is there is the same body and is kept. */
static bool us_blob_name(const char *tmp, const char *dir, const unsigned char blob_id[OP_BLOB_ID_BYTES])
{
    char path[PATH_MAX], hex[2 * OP_BLOB_ID_BYTES + 1];
    unsigned int i;
    int bytes;

    for (i = 0; i < OP_BLOB_ID_BYTES; i++)
        (void)snprintf(hex + 2 * (size_t)i, 3, "%02x", blob_id[i]);
    bytes = snprintf(path, sizeof(path), "%s/%s", dir, hex);
    if (bytes < 0 || (size_t)bytes >= sizeof(path))
        return FALSE;
    if (link(tmp, path) < 0 && errno != EEXIST)
        return FALSE;
    (void)unlink(tmp);
    return TRUE;
}

bool us_blob_capture(const struct us_mailbox *mbox, struct mail *mail, unsigned char blob_id_r[OP_BLOB_ID_BYTES])
{
    static unsigned int counter;
    const char *dir = mbox->user->spool_dir;
    struct us_blob_hasher *hasher;
    struct istream *input;
    char tmp[PATH_MAX];
    bool ok = FALSE;
    int fd, bytes;

    if (dir == NULL || !us_ring_connected())
        return FALSE;
    bytes = snprintf(tmp, sizeof(tmp), "%s/tmp.%ld.%u", dir, (long)getpid(), ++counter);
    if (bytes < 0 || (size_t)bytes >= sizeof(tmp))
        return FALSE;
    mail_storage_last_error_push(mail->box->storage);
    if (mail_get_stream_because(mail, NULL, NULL, "understudy", &input) == 0) {
        hasher = us_blob_hasher_new();
        fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, US_SPOOL_MODE);
        if (fd < 0) {
            us_gap(mbox->account, t_strdup_printf("cannot create `%s`: %m", tmp));
        } else {
            i_stream_seek(input, 0);
            ok = hasher != NULL && us_blob_copy(input, fd, hasher);
            i_stream_seek(input, 0);
            if (close(fd) < 0)
                ok = FALSE;
            if (ok) {
                us_blob_hasher_finish(hasher, blob_id_r);
                ok = us_blob_name(tmp, dir, blob_id_r);
            }
            if (!ok) {
                us_gap(mbox->account, t_strdup_printf("cannot write `%s`: %m", tmp));
                (void)unlink(tmp);
            }
        }
        us_blob_hasher_free(hasher);
    }
    mail_storage_last_error_pop(mail->box->storage);
    return ok;
}
