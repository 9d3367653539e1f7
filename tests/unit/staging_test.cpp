#include "formats/staging.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "core/error.hpp"
#include "formats/file.hpp"
#include "formats/lock.hpp"
#include "formats/target_writer.hpp"
#include "support/folder.hpp"

namespace {

/// What flock answers instead of locking, or 0.
int flock_error = 0;

}  // namespace

/// Stands before the C library's, for file systems that have none.
extern "C" int flock(int descriptor, int operation) {
  if (flock_error == 0) return static_cast<int>(::syscall(SYS_flock, descriptor, operation));
  errno = flock_error;
  return -1;
}

namespace reshard::formats {

namespace {

/// A file system that may not be able to exchange names.
struct Calls : SystemCalls {
  bool has_exchange = true;
  int exchange(const char* a, const char* b) const override {
    if (has_exchange) return SystemCalls::exchange(a, b);
    errno = EINVAL;
    return -1;
  }
};

Calls& calls() {
  static Calls one;
  return one;
}

}  // namespace

const SystemCalls& system_calls() {
  return calls();
}

namespace {

namespace fs = std::filesystem;

/// A folder of this test with a folder `outside` that nothing may change.
class StagingTest : public testing::Test {
 protected:
  StagingTest() {
    fs::create_directory(root_ / "outside");
    write_text(root_ / "outside/file", "mine");
  }

  [[nodiscard]] std::string path(const std::string& name) const { return root_ / name; }
  [[nodiscard]] Staging plan(const std::string& name) const {
    Target target;
    target.unit = ".";
    return plan_staging(path(name), target, "");
  }
  void expect_untouched() const {
    EXPECT_EQ(read_text(path("outside/file"), 100), "mine");
    EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "outside"), {}), 1);
  }

 private:
  test::Folder root_;
};

template <class Work>
std::string refusal(Kind kind, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST_F(StagingTest, TheFileIsTheLockWhereThereIsNoFlock) {
  for (const int error : {ENOSYS, EOPNOTSUPP, ENOLCK}) {
    flock_error = error;
    const std::string file = path("lock");
    {
      const Lock lock(file);
      EXPECT_EQ(lock.stale(), "");
      const std::string said = refusal(Kind::usage, [&] { const Lock other(file); });
      EXPECT_NE(said.find("another conversion writes there now: host "), std::string::npos) << said;
      EXPECT_NE(said.find("remove this file"), std::string::npos) << said;
      EXPECT_TRUE(fs::exists(file));
    }
    EXPECT_FALSE(fs::exists(file));
    const ::pid_t ended = ::fork();
    if (ended == 0) ::_exit(0);
    ::waitpid(ended, nullptr, 0);
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    const std::string of_ended =
        std::string("host ") + host.data() + " process " + std::to_string(ended) + " job -";
    write_text(file, of_ended);
    {
      const Lock lock(file);
      EXPECT_EQ(lock.stale(), of_ended);
    }
    write_text(file, "host elsewhere process 1 job 7");
    EXPECT_NE(refusal(Kind::usage, [&] { const Lock lock(file); }).find("elsewhere"),
              std::string::npos);
    fs::remove(file);
  }
  flock_error = 0;
}

TEST_F(StagingTest, ALinkIsReplacedAndNotFollowed) {
  for (const bool has_exchange : {true, false}) {
    for (const std::string end : {"outside", "outside/file", "gone"}) {
      calls().has_exchange = has_exchange;
      fs::create_symlink(end, path("target"));
      const Staging staging = plan("target");
      EXPECT_NE(refusal(Kind::usage, [&] { check_place(staging, false); }).find("is a link"),
                std::string::npos);
      EXPECT_EQ(staging.unit, fs::canonical(path(".")) / "target");
      create_staging(staging, "identity", 0);
      write_text(staging.tree() + "/new", "new");
      publish_tree(staging, true);
      discard(staging);
      EXPECT_FALSE(fs::is_symlink(path("target")));
      EXPECT_EQ(read_text(path("target/new"), 100), "new");
      EXPECT_FALSE(fs::exists(staging.folder));
      expect_untouched();
      fs::remove_all(path("target"));
    }
  }
  calls().has_exchange = true;
}

TEST_F(StagingTest, LinksInAnOldUnitAreRemovedAndNotFollowed) {
  for (const bool has_exchange : {true, false}) {
    calls().has_exchange = has_exchange;
    fs::create_directory(path("target"));
    fs::create_directory_symlink("../outside", path("target/folder"));
    fs::create_symlink("../outside/file", path("target/file"));
    const Staging staging = plan("target");
    create_staging(staging, "identity", 0);
    publish_tree(staging, true);
    discard(staging);
    EXPECT_TRUE(fs::is_empty(path("target")));
    expect_untouched();
    fs::remove_all(path("target"));
  }
  calls().has_exchange = true;
}

TEST_F(StagingTest, AFolderThatIsThereIsNotTaken) {
  const Staging staging = plan("target");
  fs::create_directory_symlink("outside", staging.folder);
  EXPECT_NE(refusal(Kind::io, [&] { create_staging(staging, "identity", 0); }).find("exists"),
            std::string::npos);
  expect_untouched();
  EXPECT_TRUE(abandoned(staging).empty());
}

TEST_F(StagingTest, AJournalThatIsALinkIsNone) {
  const Staging staging = plan("target");
  create_staging(staging, "identity", 0);
  ASSERT_EQ(abandoned(staging).size(), 1u);
  EXPECT_EQ(abandoned(staging).front().identity, "identity");
  fs::rename(staging.journal(), path("journal"));
  fs::create_directory_symlink(path("journal"), staging.journal());
  EXPECT_EQ(abandoned(staging).front().identity, "");
  fs::remove(staging.journal());
  fs::rename(path("journal"), staging.journal());
  fs::rename(staging.tree(), path("tree"));
  fs::create_directory_symlink(path("tree"), staging.tree());
  EXPECT_EQ(abandoned(staging).front().identity, "");
  discard(staging);
  EXPECT_TRUE(fs::exists(path("tree")));
}

TEST_F(StagingTest, TheTrackerIsReplacedAndNotFollowed) {
  Target target;
  target.unit = "iter_0000007";
  target.tracker = "latest";
  target.tracker_content = "7";
  fs::create_directory(path("root"));
  const Staging staging = plan_staging(path("root"), target, "");
  fs::create_symlink("../outside/file", path("root/latest"));
  fs::create_symlink("../outside/file", path("root/.latest.reshard-new"));
  EXPECT_EQ(raise_tracker(staging, target), "");
  EXPECT_FALSE(fs::is_symlink(path("root/latest")));
  EXPECT_EQ(read_text(path("root/latest"), 10), "7");
  expect_untouched();
  fs::remove(path("root/latest"));
  ASSERT_EQ(::mkfifo(path("root/latest").c_str(), 0600), 0);
  EXPECT_NE(refusal(Kind::input, [&] { plan_staging(path("root"), target, ""); }).find("is a FIFO"),
            std::string::npos);
}

/// A writer of one file in a folder of its tree.
TEST_F(StagingTest, AWriterStaysBelowItsTree) {
  Geometry geometry;
  geometry.tile_bytes = std::uint64_t{1} << 20;
  geometry.targets.push_back({"folder/file", 4, {}});
  Target target;
  target.files.push_back(plain_file("folder/file", "new!"));
  const std::vector<FileLayout> layouts = {layout_of(target.files.front())};
  const TargetWriter writer(path("tree"), geometry, target, layouts, 1);
  fs::create_directory(path("tree"));
  fs::create_directory_symlink("../outside", path("tree/folder"));
  EXPECT_NE(refusal(Kind::io, [&] { writer.create(0); }).find("is a link"), std::string::npos);
  expect_untouched();
  fs::remove(path("tree/folder"));
  fs::create_directory(path("tree/folder"));
  fs::create_symlink("../../outside/file", path("tree/folder/file"));
  refusal(Kind::io, [&] { writer.create(0); });
  expect_untouched();
  fs::remove(path("tree/folder/file"));
  writer.create(0);
  EXPECT_EQ(fs::file_size(path("tree/folder/file")), 4u);
}

}  // namespace
}  // namespace reshard::formats
