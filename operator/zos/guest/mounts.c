/* File systems: the image below, the machine's own disk above it, its further disks in it. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <mntent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

/* What is mounted from a disk, so that it can follow the disk's growth. The first is the root's upper layer. Without `fd` it is
 * found by its path, where it still has to be on the device `id`: another init wants to unmount it. */
static struct { char *device, *format, *path; dev_t id; int fd; } mounted[MAX_DISKS + 1];
static size_t n_mounted;
/* The initramfs' own root. */
static int below = -1;

static void must_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	if (mount(source, target, type, flags, data) < 0)
		fail("mount %s on %s: %s", source, target, strerror(errno));
}

void mount_basics(void)
{
	must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	must_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
}

static int grow_btrfs(int fd, uint64_t bytes)
{
	struct btrfs_ioctl_dev_info_args info = {.devid = 1};
	struct btrfs_ioctl_vol_args args = {.name = "max"};
	/* Equal but for rounding: the kernel refuses any resize below 256 MiB, so don't ask for nothing. */
	if (ioctl(fd, BTRFS_IOC_DEV_INFO, &info) < 0 || bytes < info.total_bytes + (1 << 20))
		return 0;
	return ioctl(fd, BTRFS_IOC_RESIZE, &args);
}

static int grow_ext4(int fd, uint64_t bytes)
{
	struct stat info;
	if (fstat(fd, &info) < 0)
		return -1;
	uint64_t blocks = bytes / (uint64_t)info.st_blksize;
	return ioctl(fd, EXT4_IOC_RESIZE_FS, &blocks);
}

/* Of the file system that was mounted, if it still is. */
static int mounted_open(size_t i)
{
	struct stat info;
	if (mounted[i].fd >= 0)
		return fcntl(mounted[i].fd, F_DUPFD_CLOEXEC, 0);
	int fd = open(mounted[i].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &info) == 0 && info.st_dev == mounted[i].id)
		return fd;
	if (fd >= 0)
		close(fd);
	errno = ENOENT;
	return -1;
}

/* A file system fills its device. */
static void grow(size_t i)
{
	uint64_t bytes;
	int device = open(mounted[i].device, O_RDONLY | O_CLOEXEC), fd = mounted_open(i), rc = -1;
	if (device >= 0 && fd >= 0 && ioctl(device, BLKGETSIZE64, &bytes) == 0)
		rc = strcmp(mounted[i].format, "btrfs") == 0 ? grow_btrfs(fd, bytes) : grow_ext4(fd, bytes);
	if (rc < 0)
		dprintf(2, "zos: %s: can't use the disk's new size: %s\n", mounted[i].device, strerror(errno));
	if (device >= 0)
		close(device);
	if (fd >= 0)
		close(fd);
}

void mount_grow(const char *device)
{
	for (size_t i = 0; i < n_mounted; i++)
		if (strcmp(mounted[i].device, device) == 0)
			grow(i);
}

static void mount_disk(const char *serial, const char *format, const char *path)
{
	const char *device = disk_find(serial);
	if (!device)
		fail("disk %s for %s: not there", serial, path);
	/* Its tables are zero already: the host makes file systems on reserved, empty space. */
	must_mount(device, path, format, MS_NOATIME, strcmp(format, "ext4") == 0 ? "noinit_itable" : NULL);
	struct stat info;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &info) < 0)
		fail("%s: %s", path, strerror(errno));
	mounted[n_mounted].device = text("%s", device);
	mounted[n_mounted].format = text("%s", format);
	mounted[n_mounted].path = text("%s", path);
	mounted[n_mounted].id = info.st_dev;
	mounted[n_mounted].fd = fd;
	grow(n_mounted++);
}

void mount_root(const char *serial)
{
	must_mount("zos-image", "/image", "virtiofs", MS_RDONLY, NULL);
	mount_disk(serial, "ext4", "/own");
	mkdir("/own/upper", 0755);
	mkdir("/own/work", 0755);
	/* The image may be replaced between two boots: none of the features that forbid it (overlayfs.rst). */
	must_mount("zos-root", "/root", "overlay", MS_NOATIME,
		   "lowerdir=/image,upperdir=/own/upper,workdir=/own/work,index=off,metacopy=off,redirect_dir=off,xino=off");
}

/* From here on this process sees what the entrypoint will see, and can still go back to unmount it. */
void mount_enter(const struct config *config)
{
	static const char *const moved[] = {"/proc", "/sys", "/dev"};
	struct stat info;
	for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
		char *target = text("/root%s", moved[i]);
		/* Where the image has a link or a file there, it would lead the mount elsewhere. */
		if (lstat(target, &info) == 0 && !S_ISDIR(info.st_mode))
			unlink(target);
		mkdir(target, 0755);
		if (mount(moved[i], target, NULL, MS_MOVE, NULL) < 0)
			fail("move %s: %s", moved[i], strerror(errno));
	}
	below = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (below < 0 || chroot("/root") < 0 || chdir("/") < 0)
		fail("enter the image: %s", strerror(errno));
	must_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
	must_mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	if (!config->init) /* whose own affair that is */
		must_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mkdir("/run", 0755); /* /run and /tmp are the image's, as under container engines: what it put there is there */
	if (mkdir("/tmp", 01777) == 0)
		chmod("/tmp", 01777);
	(void)!symlink("/proc/self/fd", "/dev/fd");
	(void)!symlink("/proc/self/fd/0", "/dev/stdin");
	(void)!symlink("/proc/self/fd/1", "/dev/stdout");
	(void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

static bool go_below(void)
{
	return below >= 0 && fchdir(below) == 0 && chroot(".") == 0;
}

static bool to_top(void)
{
	return chdir("/root") == 0 && mount(".", "/", NULL, MS_MOVE, NULL) == 0 && chroot(".") == 0 && chdir("/") == 0;
}

/* As switch_root(8), for the calling process and its children alone: what they see as / is a mount at the top, not a
 * chroot, in which user namespaces are refused. */
bool mount_switch(void)
{
	return go_below() && unshare(CLONE_NEWNS) == 0 && to_top();
}

bool mount_become(void)
{
	for (size_t i = 1; i < n_mounted; i++) { /* all but the root, which nobody can unmount */
		close(mounted[i].fd);
		mounted[i].fd = -1;
	}
	return go_below() && to_top();
}

void make_parents(const char *path, unsigned mode)
{
	char *copy = text("%s", path);
	for (char *slash = copy + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = 0;
		mkdir(copy, mode);
		*slash = '/';
	}
	free(copy);
}

void mount_further(const struct config *config)
{
	for (size_t i = 0; i < config->n_mounts; i++) {
		const struct mount *further = &config->mounts[i];
		if (!further->format) {
			share_mount(further);
			continue;
		}
		make_parents(further->path, 0755);
		mount_disk(further->source, further->format, further->path);
	}
}

void write_files(const struct config *config)
{
	for (size_t i = 0; i < config->n_files; i++) {
		const struct file *file = &config->files[i];
		/* A new file under the old name: an image's link to elsewhere is replaced, not followed. */
		make_parents(file->path, (file->mode & 077) ? 0755 : 0700);
		unlink(file->path);
		int fd = open(file->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, file->mode);
		if (fd < 0 || write(fd, file->content, file->size) != (ssize_t)file->size)
			fail("file %s: %s", file->path, strerror(errno));
		fchmod(fd, file->mode);
		close(fd);
	}
}

struct target { char *path; bool shared; };

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct target *)a)->path, ((const struct target *)b)->path);
}

/* Written out first: unmounting does so only where nobody has it mounted elsewhere, and namespaces go some time after the last
 * process in them. /dev is in use by this process: it goes out of the way. */
static void unmount(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0) {
		if (syncfs(fd) < 0)
			dprintf(2, "zos: write out %s: %s\n", path, strerror(errno));
		close(fd);
	}
	if (umount2(path, UMOUNT_NOFOLLOW) < 0 && umount2(path, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
		dprintf(2, "zos: unmount %s: %s\n", path, strerror(errno));
}

/* One by one. No sync(2): it would wait for a share that doesn't answer before it comes to the disks. */
void unmount_all(void)
{
	struct target targets[256];
	size_t n = 0;
	for (size_t i = 0; i < n_mounted; i++)
		close(mounted[i].fd);
	FILE *table = setmntent(go_below() ? "/root/proc/self/mounts" : "/proc/self/mounts", "re");
	if (!table)
		return;
	for (struct mntent *entry; n < sizeof targets / sizeof *targets && (entry = getmntent(table));)
		targets[n++] = (struct target){text("%s", entry->mnt_dir), strcmp(entry->mnt_type, "virtiofs") == 0};
	endmntent(table);
	/* What is below others goes after them. */
	qsort(targets, n, sizeof *targets, by_path);
	while (n-- > 0)
		if (targets[n].shared)
			share_unmount(targets[n].path);
		else if (strcmp(targets[n].path, "/") != 0)
			unmount(targets[n].path);
}
