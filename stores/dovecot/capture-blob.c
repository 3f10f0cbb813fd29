/* Writes message bodies into the spool, while they are saved.
 *
 * Owns: `docs/formats.md` ("Spool") for the plugin: tmp.<pid>.<counter> while written, then the name of the body.
 * What can hurt: a full or missing spool; the save goes on without a body in the operation and the account is
 * marked, unless the account's level needs the body. The stream belongs to Dovecot: it is put back to its start.
 * Refuses: fsync; the agent does it before it acknowledges an operation that names the body. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "capture.h"

#include "istream.h"
#include "write-full.h"

#include "understudy_ring.h"

/* Read by the agent's group: the spool directory is setgid. */
#define US_SPOOL_MODE 0640
/* Bytes that stay free on the spool's file system; past it bodies are not written, so that an agent that stays away
 * never fills the store's disk. */
#define US_SPOOL_FREE_BYTES_MIN (UINT64_C(256) * 1024 * 1024)
/* Names that are tried for a new file; another container may have a process of the same number. */
#define US_SPOOL_NAMES_MAX 16

/* Creates a file of a new name; -1 with errno when it cannot. */
static int us_blob_create(const char *dir, char *tmp, size_t tmp_bytes)
{
    static unsigned int counter;
    struct statvfs space;
    unsigned int tries;
    int fd = -1, bytes;

    if (statvfs(dir, &space) < 0)
        return -1;
    if ((uint64_t)space.f_bavail * space.f_frsize < US_SPOOL_FREE_BYTES_MIN) {
        errno = ENOSPC;
        return -1;
    }
    for (tries = 0; fd < 0 && tries < US_SPOOL_NAMES_MAX; tries++) {
        bytes = snprintf(tmp, tmp_bytes, "%s/tmp.%ld.%u", dir, (long)getpid(), ++counter);
        if (bytes < 0 || (size_t)bytes >= tmp_bytes) {
            errno = ENAMETOOLONG;
            return -1;
        }
        fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, US_SPOOL_MODE);
        if (fd < 0 && errno != EEXIST)
            return -1;
    }
    return fd;
}

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
    if (link(tmp, path) == 0 || errno == EEXIST) {
        (void)unlink(tmp);
        return TRUE;
    }
    /* A file system without hard links: the same name is the same bytes. */
    return rename(tmp, path) == 0;
}

bool us_blob_capture(const struct us_mailbox *mbox, struct mail *mail, unsigned char blob_id_r[OP_BLOB_ID_BYTES])
{
    const char *dir = mbox->user->spool_dir, *why = NULL;
    bool unreadable = FALSE;
    struct us_blob_hasher *hasher;
    struct istream *input;
    char tmp[PATH_MAX];
    int fd;

    if (!us_ring_connected())
        return FALSE;
    if (dir == NULL) {
        us_gap(mbox->account, "setting `understudy_spool` is not set; bodies are not replicated");
        return FALSE;
    }
    if (compat_unreadable(mail))
        return FALSE;
    mail_storage_last_error_push(mail->box->storage);
    hasher = us_blob_hasher_new();
    if (mail_get_stream_because(mail, NULL, NULL, "understudy", &input) < 0 || hasher == NULL) {
        unreadable = TRUE;
    } else if ((fd = us_blob_create(dir, tmp, sizeof(tmp))) < 0) {
        why = t_strdup_printf("cannot create a file in `%s`: %m", dir);
    } else {
        i_stream_seek(input, 0);
        if (!us_blob_copy(input, fd, hasher)) {
            unreadable = input->stream_errno != 0;
            why = unreadable ? NULL : t_strdup_printf("cannot write `%s`: %m", tmp);
        }
        i_stream_seek(input, 0);
        if (close(fd) < 0 && why == NULL)
            why = t_strdup_printf("cannot close `%s`: %m", tmp);
        us_blob_hasher_finish(hasher, blob_id_r);
        if (why == NULL && !unreadable && !us_blob_name(tmp, dir, blob_id_r))
            why = t_strdup_printf("cannot rename `%s`: %m", tmp);
        if (why != NULL || unreadable)
            (void)unlink(tmp);
    }
    us_blob_hasher_free(hasher);
    /* One that cannot be read is mostly of a mailbox that was deleted meanwhile, and will not be committed. */
    if (why != NULL)
        us_gap(mbox->account, why);
    mail_storage_last_error_pop(mail->box->storage);
    return why == NULL && !unreadable;
}
