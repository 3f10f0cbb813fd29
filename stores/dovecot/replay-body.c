/* Bodies into the spool, named by their BLAKE3.
 *
 * Owns: `tmp.<pid>.<counter>` while written, renamed when complete (docs/formats.md, "Spool"). What can hurt: a
 * full disk: the half file is removed and the message goes out without a BLOB_ID. Refuses: fsync, which is the
 * agent's; overwriting, because a file of that name is the same body. */

#include "replay.h"

#include "istream.h"
#include "write-full.h"

#include "understudy_ring.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int copy(struct istream *input, int fd, struct us_blob_hasher *hasher, const char **error_r)
{
    const unsigned char *data;
    size_t size;
    int ret;

    while ((ret = i_stream_read_more(input, &data, &size)) > 0) {
        us_blob_hasher_update(hasher, data, size);
        if (write_full(fd, data, size) < 0) {
            *error_r = t_strdup_printf("write to the spool failed: %m");
            return -1;
        }
        i_stream_skip(input, size);
    }
    if (input->stream_errno != 0) {
        *error_r = t_strdup_printf("body cannot be read: %s", i_stream_get_error(input));
        return -1;
    }
    return 0;
}

static const char *hex_name(const char *spool, const unsigned char id[32])
{
    static const char digits[] = "0123456789abcdef";
    char name[65];
    unsigned int i;

    for (i = 0; i < 32; i++) {
        name[i * 2] = digits[id[i] >> 4];
        name[i * 2 + 1] = digits[id[i] & 15];
    }
    name[64] = '\0';
    return t_strconcat(spool, "/", name, NULL);
}

int replay_body_spool(const char *spool, struct istream *input, unsigned char id_r[32], const char **error_r)
{
    static unsigned int counter;
    const char *tmp = t_strdup_printf("%s/tmp.%ld.r%u", spool, (long)getpid(), ++counter);
    const char *name;
    struct us_blob_hasher *hasher;
    struct stat st;
    int fd, ret;

    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) {
        *error_r = t_strdup_printf("creating a file in the spool failed: %m");
        return -1;
    }
    hasher = us_blob_hasher_new();
    ret = copy(input, fd, hasher, error_r);
    us_blob_hasher_finish(hasher, id_r);
    us_blob_hasher_free(hasher);
    if (close(fd) < 0 && ret == 0) {
        *error_r = t_strdup_printf("write to the spool failed: %m");
        ret = -1;
    }
    name = hex_name(spool, id_r);
    if (ret == 0 && lstat(name, &st) < 0 && rename(tmp, name) < 0) {
        *error_r = t_strdup_printf("rename in the spool failed: %m");
        ret = -1;
    }
    /* Gone already when it was renamed. */
    (void)unlink(tmp);
    return ret;
}
