/* Directories of the host that are shared with this guest, whole or with something inside that the host may replace. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Tenths of a second: for a device to come, and for which names in a share are believed without asking (virtiofsd's "auto", with
 * room). */
enum { SHARE_TRIES = 50, SHARE_BELIEVED = 12, SHARE_SECONDS = 30, LAST_SECONDS = 5 };

/* What others write there has no rights here. The device is there, as the image's is; if it is not, that is waited for. */
static void mount_whole(const struct mount *share, const char *path)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | (share->read_only ? MS_RDONLY : 0);
	struct timespec moment = {0, 100 * 1000 * 1000};
	mkdir(path, 0755);
	for (int tries = 0; mount(share->source, path, "virtiofs", flags, NULL) < 0; tries++) {
		if (errno != EINVAL || tries == SHARE_TRIES) /* EINVAL: no device has this tag */
			fail("share %s for %s: %s", share->source, share->path, errno == EINVAL ? "not there" : strerror(errno));
		nanosleep(&moment, NULL);
	}
}

/* Beside the image: where the entrypoint doesn't come. */
void shares_hide(struct config *config)
{
	for (size_t i = 0; i < config->n_mounts; i++) {
		struct mount *share = &config->mounts[i];
		char *path = text("/share-%zu", i);
		if (!share->inside)
			continue;
		mount_whole(share, path);
		share->hidden = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (share->hidden < 0)
			fail("share %s for %s: %s", share->source, share->path, strerror(errno));
	}
}

static void mount_inside(const struct mount *share)
{
	mkdir(share->path, 0755);
	int tree = open_tree(share->hidden, share->inside, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0 || move_mount(tree, "", AT_FDCWD, share->path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		fail("share %s for %s: %s", share->source, share->path, strerror(errno));
	close(tree);
}

/* Whether a child does in time. SIGCHLD is blocked here, always. */
static bool ends(pid_t child, unsigned seconds)
{
	struct timespec patience = {seconds, 0};
	sigset_t children;
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	while (waitpid(child, NULL, WNOHANG) == 0)
		if (sigtimedwait(&children, NULL, &patience) < 0 && errno == EAGAIN)
			return waitpid(child, NULL, WNOHANG) != 0;
	return true;
}

/* In a child, as a file system behind a share may not answer, and nothing ends a process that waits for that. */
void share_mount(const struct mount *share)
{
	pid_t child = fork();
	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child == 0) {
		make_parents(share->path, 0755);
		if (share->inside)
			mount_inside(share);
		else
			mount_whole(share, share->path);
		_exit(0);
	}
	if (!ends(child, SHARE_SECONDS))
		fail("share %s for %s: no answer in %d s", share->source, share->path, SHARE_SECONDS);
}

/* It is out of everybody's way at once; its file system is let go of as soon as it answers. */
void share_unmount(const char *path)
{
	pid_t child = fork();
	if (child == 0) {
		umount2(path, UMOUNT_NOFOLLOW | MNT_DETACH);
		_exit(0);
	}
	if (child > 0)
		ends(child, LAST_SECONDS);
}

/* Which file it is, and in which file system; asks nobody, who may be dead. */
static bool same(int directory, const char *path)
{
	struct { struct file_handle handle; unsigned char room[MAX_HANDLE_SZ]; } one, other;
	int id;
	one.handle.handle_bytes = other.handle.handle_bytes = MAX_HANDLE_SZ;
	return name_to_handle_at(directory, "", &one.handle, &id, AT_EMPTY_PATH) == 0 &&
	       name_to_handle_at(AT_FDCWD, path, &other.handle, &id, 0) == 0 && one.handle.handle_type == other.handle.handle_type &&
	       one.handle.handle_bytes == other.handle.handle_bytes && memcmp(one.room, other.room, one.handle.handle_bytes) == 0;
}

static bool of_one(int directory, const char *path)
{
	struct statx one, other;
	return statx(directory, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &one) == 0 &&
	       statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, 0, &other) == 0 && one.stx_dev_major == other.stx_dev_major &&
	       one.stx_dev_minor == other.stx_dev_minor;
}

/* A mount stays what it was made of, and nothing comes to life again in it: it is replaced. Whose working directory it is keeps
 * the dead one. What somebody has mounted there instead stays. */
static void renew(const struct mount *share, int tree)
{
	if (!of_one(tree, share->path) || same(tree, share->path) || umount2(share->path, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
		return;
	if (move_mount(tree, "", AT_FDCWD, share->path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		dprintf(2, "zos: share %s for %s: %s\n", share->source, share->path, strerror(errno));
}

void shares_renew(const struct config *config, int entrypoint)
{
	struct timespec moment = {SHARE_BELIEVED / 10, SHARE_BELIEVED % 10 * 100 * 1000 * 1000};
	int trees[MAX_DISKS + MAX_SHARES];
	sigset_t none;
	if (fork() != 0) /* whoever is asked here may not answer */
		return;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	nanosleep(&moment, NULL);
	for (size_t i = 0; i < config->n_mounts; i++) {
		const struct mount *share = &config->mounts[i];
		trees[i] = -1;
		if (!share->inside)
			continue;
		trees[i] = open_tree(share->hidden, share->inside, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
		if (!config->init && trees[i] >= 0 && of_one(trees[i], share->path) && !same(trees[i], share->path))
			umount2(share->path, UMOUNT_NOFOLLOW | MNT_DETACH); /* init's own: it holds on to what is dead */
	}
	/* Held no longer than for this: a namespace keeps all that is mounted in it. */
	int view = open(text("/proc/%d/ns/mnt", entrypoint), O_RDONLY | O_CLOEXEC);
	if (view >= 0 && setns(view, CLONE_NEWNS) == 0)
		for (size_t i = 0; i < config->n_mounts; i++)
			if (trees[i] >= 0)
				renew(&config->mounts[i], trees[i]);
	_exit(0);
}
